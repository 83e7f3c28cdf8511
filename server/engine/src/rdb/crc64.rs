//! CRC-64 as Redis computes it (Jones polynomial, reflected, initial value 0).

static TABLE: crc::Crc<u64, crc::Table<16>> = crc::Crc::<u64, crc::Table<16>>::new(&crc::CRC_64_REDIS);

/// A running checksum.
#[derive(Clone)]
pub struct Crc64(crc::Digest<'static, u64, crc::Table<16>>);

impl Default for Crc64 {
    fn default() -> Self {
        Self(TABLE.digest())
    }
}

impl std::fmt::Debug for Crc64 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Crc64").field(&self.value()).finish()
    }
}

impl Crc64 {
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub fn value(&self) -> u64 {
        self.0.clone().finalize()
    }

    pub fn of(bytes: &[u8]) -> u64 {
        TABLE.checksum(bytes)
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_check_value_is_redis_s() {
        assert_eq!(super::Crc64::of(b"123456789"), 0xe9c6_d914_c4b8_d9ca);
    }
}
