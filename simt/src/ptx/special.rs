//! Special registers (chapter 10).

/// Those with one value each, without their percent sign.
const SCALARS: [&str; 27] = [
    "laneid",
    "warpid",
    "nwarpid",
    "smid",
    "nsmid",
    "gridid",
    "is_explicit_cluster",
    "cluster_ctarank",
    "cluster_nctarank",
    "lanemask_eq",
    "lanemask_le",
    "lanemask_lt",
    "lanemask_ge",
    "lanemask_gt",
    "clock",
    "clock_hi",
    "clock64",
    "globaltimer",
    "globaltimer_lo",
    "globaltimer_hi",
    "reserved_smem_offset_begin",
    "reserved_smem_offset_end",
    "reserved_smem_offset_cap",
    "total_smem_size",
    "aggr_smem_size",
    "dynamic_smem_size",
    "current_graph_exec",
];

/// Those with a value for each axis.
const VECTORS: [&str; 8] = [
    "tid",
    "ntid",
    "ctaid",
    "nctaid",
    "clusterid",
    "nclusterid",
    "cluster_ctaid",
    "cluster_nctaid",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Scalar,
    /// `.x`, `.y` or `.z` has to follow.
    Vector,
}

/// What kind of special register has this name, given without its percent sign.
pub(super) fn kind(name: &str) -> Option<Kind> {
    if VECTORS.contains(&name) {
        return Some(Kind::Vector);
    }
    (SCALARS.contains(&name) || is_numbered(name)).then_some(Kind::Scalar)
}

fn is_numbered(name: &str) -> bool {
    let below = |digits: &str, limit: u32| {
        let is_plain = digits == "0" || digits.starts_with(|c: char| matches!(c, '1'..='9'));
        is_plain && digits.parse::<u32>().is_ok_and(|number| number < limit)
    };
    if let Some(digits) = name.strip_prefix("envreg") {
        return below(digits, 32);
    }
    if let Some(digits) = name.strip_prefix("reserved_smem_offset_") {
        return below(digits, 2);
    }
    name.strip_prefix("pm").is_some_and(|rest| below(rest.strip_suffix("_64").unwrap_or(rest), 8))
}

/// The number of an axis, given without its dot.
pub(super) fn axis(name: &str) -> Option<u8> {
    match name {
        "x" => Some(0),
        "y" => Some(1),
        "z" => Some(2),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbered_ones_end_where_the_manual_ends_them() {
        for name in ["envreg0", "envreg31", "pm0", "pm7", "pm7_64", "reserved_smem_offset_1"] {
            assert_eq!(kind(name), Some(Kind::Scalar), "{name}");
        }
        for name in ["envreg", "envreg32", "envreg01", "pm8", "pm", "pm_64", "pm0_32", "tidx", ""] {
            assert_eq!(kind(name), None, "{name}");
        }
        assert_eq!(kind("cluster_nctaid"), Some(Kind::Vector));
    }
}
