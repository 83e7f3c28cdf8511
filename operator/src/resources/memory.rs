//! Kubernetes's quantities in bytes, and the share of its memory that an instance may fill with data.

use crate::api::ReplicatedRedis;

/// Bytes that a quantity means; `None` if it is none, or is not a number of bytes.
pub fn bytes(quantity: &str) -> Option<u64> {
    let text = quantity.trim();
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let factor = match unit {
        "" => 1.0,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        "Ki" => 1024.0,
        "Mi" => 1024f64.powi(2),
        "Gi" => 1024f64.powi(3),
        "Ti" => 1024f64.powi(4),
        "Pi" => 1024f64.powi(5),
        "Ei" => 1024f64.powi(6),
        _ => format!("1{unit}").parse().ok()?,
    };
    let bytes = number.parse::<f64>().ok()? * factor;
    // Exact up to 2^53, and nobody has a volume of 8 PiB that must be so to the byte.
    (0.0..9.2e18).contains(&bytes).then_some(bytes.round() as u64)
}

/// `maxmemory` as it follows from the limit of the container, unless the manifest says it.
pub(super) fn maxmemory(owner: &ReplicatedRedis) -> Option<u64> {
    let spec = &owner.spec;
    if spec.config.keys().any(|name| name.eq_ignore_ascii_case("maxmemory")) {
        return None;
    }
    let limit = bytes(&spec.resources.as_ref()?.limits.as_ref()?.get("memory")?.0)?;
    let share = u128::from(limit) * u128::from(spec.memory.maxmemory_percent) / 100;
    u64::try_from(share).ok().filter(|share| *share > 0)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ResourceRequirements;
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

    use super::*;
    use crate::resources::tests::datastore;

    #[test]
    fn quantities_are_bytes() {
        let cases =
            [("1Gi", 1 << 30), ("1.5Mi", 3 << 19), ("2G", 2_000_000_000), ("100", 100), ("1e3", 1000), ("500m", 1)];
        for (text, wanted) in cases {
            assert_eq!(bytes(text), Some(wanted), "{text}");
        }
        for wrong in ["", "Gi", "1 apple", "-1", "1.2.3"] {
            assert_eq!(bytes(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn data_may_take_a_share_of_the_limit() {
        let limited = |percent: u32, config: Option<&str>| {
            maxmemory(&datastore(|spec| {
                let limits = [("memory".to_string(), Quantity("1Gi".into()))].into();
                spec.resources = Some(ResourceRequirements { limits: Some(limits), ..ResourceRequirements::default() });
                spec.memory.maxmemory_percent = percent;
                spec.config.extend(config.map(|value| ("MaxMemory".to_string(), value.to_string())));
            }))
        };
        assert_eq!(limited(75, None), Some((1 << 30) / 4 * 3));
        assert_eq!(limited(0, None), None);
        assert_eq!(limited(75, Some("100mb")), None, "the manifest says it");
        assert_eq!(maxmemory(&datastore(|_| {})), None, "there is no limit");
    }
}
