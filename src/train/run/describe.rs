//! What a run leaves for people: `config.toml` and `env.json`.

use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;

use super::lock::host;
use crate::device::Device;
use crate::{Error, Result, atomic};

/// Writes `config.toml` and `env.json`.
pub fn describe(out: &Path, config_toml: &str, device: &Device, threads: usize) -> Result<()> {
    fs::create_dir_all(out).map_err(Error::io(out, "create"))?;
    atomic::write_bytes(out.join("config.toml"), config_toml.as_bytes())?;
    let env = json!({
        "program": "glmae",
        "version": env!("CARGO_PKG_VERSION"),
        "git": option_env!("GLMAE_GIT_HASH").unwrap_or("unknown"),
        "device": device.name(),
        // Which kernels form the sums of products, and by which file: another choice gives other last bits.
        "kernels": device.kernel_set().name(),
        "tuning": std::env::var("GLMAE_TUNING").ok(),
        "threads": threads,
        "os": std::env::consts::OS,
        "arch": std::env::consts::ARCH,
        "host": host(),
        "pid": std::process::id(),
        "started": utc_now(),
        "command": std::env::args().collect::<Vec<_>>(),
    });
    atomic::write_json(out.join("env.json"), &env)?;
    Ok(())
}

fn utc_now() -> String {
    utc(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()))
}

/// `2026-11-23T08:02:35Z`. Days to dates as in Howard Hinnant's `civil_from_days`: years begin in
/// March, so that the leap day is the last of its year.
fn utc(seconds: u64) -> String {
    let days = seconds / 86_400 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + 400 * era + u64::from(month <= 2);
    let (h, m, s) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(utc(0), "1970-01-01T00:00:00Z");
        assert_eq!(utc(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(utc(1_709_251_199), "2024-02-29T23:59:59Z");
        assert_eq!(utc(4_102_444_800), "2100-01-01T00:00:00Z");
    }
}
