//! The shipped presets, built into the program so that it needs no files beside it.

use super::Config;
use crate::Result;

/// By name.
pub const PRESETS: &[(&str, &str)] = &[
    ("demo", include_str!("../../configs/demo.toml")),
    ("tiny", include_str!("../../configs/tiny.toml")),
    ("small", include_str!("../../configs/small.toml")),
    ("hippocampus", include_str!("../../configs/hippocampus.toml")),
    ("ct-small", include_str!("../../configs/ct-small.toml")),
    ("vit-b", include_str!("../../configs/vit-b.toml")),
    ("vit-l", include_str!("../../configs/vit-l.toml")),
    ("vit-h", include_str!("../../configs/vit-h.toml")),
];

/// A shipped preset.
pub fn preset(name: &str) -> Result<Config> {
    Config::load(name, &[])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_is_valid() {
        for (name, _) in PRESETS {
            preset(name).unwrap_or_else(|e| panic!("{name}: {e}"));
        }
    }

    #[test]
    fn the_written_config_reads_back() {
        let config = preset("hippocampus").unwrap();
        let text = config.to_toml().unwrap();
        assert_eq!(Config::parse(&text, "test", &[]).unwrap(), config);
    }
}
