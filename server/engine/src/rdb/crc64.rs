//! CRC-64 as Redis computes it (Jones polynomial, reflected, initial value 0).

use crc_fast::CrcAlgorithm::Crc64Redis;

/// A running checksum.
#[derive(Clone, Debug)]
pub struct Crc64(crc_fast::Digest);

impl Default for Crc64 {
    fn default() -> Self {
        Self(crc_fast::Digest::new(Crc64Redis))
    }
}

impl Crc64 {
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub fn value(&self) -> u64 {
        self.0.finalize()
    }

    pub fn of(bytes: &[u8]) -> u64 {
        crc_fast::checksum(Crc64Redis, bytes)
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_check_value_is_redis_s() {
        assert_eq!(super::Crc64::of(b"123456789"), 0xe9c6_d914_c4b8_d9ca);
    }
}
