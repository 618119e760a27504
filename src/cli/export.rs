//! `glmae export`: weights for MONAI and timm.

use std::path::PathBuf;

use anyhow::Result;
use glmae::error::exit;
use glmae::interchange::export::{ExportOptions, Target, export, spare_source};

use super::term;

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  glmae export runs/ct --target monai-1.6 --out vit.safetensors
  glmae export runs/ct/checkpoints/step_00001200 --target timm --out encoder.safetensors
  glmae export runs/seg --target monai-1.4 --out unetr.safetensors         a fine-tuned network

Targets: monai-1.6, monai-1.4 (1.4 and 1.5), monai-1.0 (1.0 to 1.3), timm (the names of timm and of
the official code). Prints the Python that builds the network which loads the file with strict=True,
and what the file does not carry. docs/interchange.md has the tables of names.")]
pub struct Args {
    /// A run folder or checkpoint of pre-training or fine-tuning, or encoder.safetensors of `import`
    #[arg(value_name = "CHECKPOINT")]
    checkpoint: PathBuf,
    /// Whose state dict: monai-1.6, monai-1.4, monai-1.0 or timm
    #[arg(long, value_name = "TARGET")]
    target: String,
    /// The file to write
    #[arg(long, value_name = "FILE.safetensors")]
    out: PathBuf,
    /// MONAI's patch embedding "perceptron" instead of "conv"
    #[arg(long)]
    perceptron: bool,
    /// For MONAI networks built without qkv_bias; outputs then differ
    #[arg(long)]
    without_qkv_bias: bool,
    /// Of a fine-tuned network the encoder alone
    #[arg(long)]
    encoder_only: bool,
}

pub fn run(args: &Args) -> Result<u8> {
    let target = Target::parse(&args.target)?;
    let options = ExportOptions {
        perceptron: args.perceptron,
        without_qkv_bias: args.without_qkv_bias,
        encoder_only: args.encoder_only,
    };
    spare_source(&args.checkpoint, &args.out)?;
    let exported = export(&args.checkpoint, target, &options)?;
    exported.write(&args.out, target)?;
    let elements: usize = exported.tensors.values().map(|(_, values)| values.len()).sum();
    let mut text = format!(
        "{}: {target}, {} tensors, {} elements\n\nloads with strict=True into\n  {}\n",
        args.out.display(),
        exported.tensors.len(),
        term::count(elements),
        exported.construct
    );
    if !exported.lost.is_empty() {
        text += "\nnot carried:\n";
        exported.lost.iter().for_each(|line| text += &format!("  {line}\n"));
    }
    term::print(&text)?;
    Ok(exit::OK)
}
