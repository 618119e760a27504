//! The program from outside: exit codes, messages, what goes to which stream.

mod bad_input;
mod evaluate;
mod evaluate_side;
#[cfg(target_os = "linux")]
mod full_streams;
mod inspect;
mod keys;
mod memory;
mod notes;
mod results;

use assert_cmd::Command;

/// The program, without the caller's environment of filters and colours.
fn glmae(args: &[&str]) -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("glmae"));
    command.env_remove("RUST_LOG").args(args);
    command
}

/// Exit code, stdout and stderr.
fn run(args: &[&str]) -> (i32, String, String) {
    let output = glmae(args).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}
