//! `glmae ops`: the registry of ops, as a table for people or for the README.

use anyhow::Result;
use glmae::error::exit;
use glmae::ops::OPS;

use super::term::{self, Table};

#[derive(clap::Args)]
pub struct Args {
    /// As Markdown, for the README
    #[arg(long)]
    markdown: bool,
}

pub fn run(args: &Args) -> Result<u8> {
    let gradient = |yes: bool| if yes { "yes" } else { "no" };
    if args.markdown {
        let mut text = String::from("| op | what it does | gradient |\n| --- | --- | --- |\n");
        for op in OPS {
            let summary = op.summary().replace('|', "\\|");
            let name = op.name();
            let link = format!("[`{name}`](src/ops/{name}.rs)");
            text += &format!("| {link} | {summary} | {} |\n", gradient(op.differentiable()));
        }
        term::print(&text)?;
    } else {
        let mut table = Table::new(&["<op", "<gradient", "<what it does"]);
        for op in OPS {
            let grad = gradient(op.differentiable());
            table.row([op.name().into(), grad.into(), op.summary().into()]);
        }
        term::print(&table.render(""))?;
    }
    Ok(exit::OK)
}
