//! What no sensible run exceeds. A number beyond it is a mistake or an attack, and is refused before
//! a product of such numbers overflows or a loop over them begins.

use super::Config;
use crate::{Error, Result};

/// Width of a layer; hidden widths, bottleneck and prototypes of the head.
const WIDTH: usize = 1 << 20;
/// Channels of an image.
const CHANNELS: usize = 4096;
/// Blocks.
const DEPTH: usize = 4096;
/// Voxels along a side of a view, and views of a volume.
const SIDE: usize = 1 << 16;
/// Numbers in a table of positions, which is made for every grid: 1 GiB while it is made. A view of
/// 512^3 voxels with patches of 8 and width 512 is at it.
const TABLE: usize = 1 << 27;

/// Errors: [`Error::Config`] naming the key and the most that it may be.
pub fn check(config: &Config) -> Result<()> {
    let (m, h, v) = (&config.model, &config.head, &config.views);
    for (key, value, most) in [
        ("model.in_chans", m.in_chans, CHANNELS),
        ("model.dim", m.dim, WIDTH),
        ("model.dec_dim", m.dec_dim, WIDTH),
        ("model.depth", m.depth, DEPTH),
        ("model.dec_depth", m.dec_depth, DEPTH),
        ("head.hidden", h.hidden, WIDTH),
        ("head.bottleneck", h.bottleneck, WIDTH),
        ("head.prototypes", h.prototypes, WIDTH),
        ("views.n_global", v.n_global, SIDE),
        ("views.n_local", v.n_local, SIDE),
    ] {
        if value > most {
            return Err(Error::Config(format!("{key} = {value} must be at most {most}")));
        }
    }
    for (key, size) in [("global_size", v.global_size), ("local_size", v.local_size)] {
        if size.iter().any(|&n| n > SIDE) {
            return Err(Error::Config(format!(
                "views.{key} = {size:?} must be at most {SIDE} each"
            )));
        }
        // A patch of 0 is refused elsewhere.
        let tokens: usize = size.iter().map(|n| n / m.patch.max(1)).product();
        let width = m.dim.max(m.dec_dim);
        if tokens.saturating_mul(width) > TABLE {
            return Err(Error::Config(format!(
                "views.{key} = {size:?} has {tokens} patches of model.patch = {}: a table of as many \
                 rows of {width} numbers is larger than {TABLE}",
                m.patch
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absurd_numbers_are_refused_by_name() {
        for key in [
            "model.in_chans",
            "model.dim",
            "model.dec_dim",
            "model.depth",
            "model.dec_depth",
            "head.hidden",
            "head.bottleneck",
            "head.prototypes",
            "views.n_global",
            "views.n_local",
        ] {
            for value in [1u64 << 31, u64::from(u32::MAX), i64::MAX as u64] {
                let e = Config::load("tiny", &[format!("{key}={value}")]).unwrap_err().to_string();
                assert!(e.contains(key) && e.contains("at most"), "{e}");
            }
        }
        for key in ["views.global_size", "views.local_size"] {
            for side in [1u64 << 31, 1 << 62, 1 << 15] {
                let set = format!("{key}={side},{side},{side}");
                let e = Config::load("tiny", &[set]).unwrap_err().to_string();
                assert!(e.contains(key), "{e}");
            }
        }
    }
}
