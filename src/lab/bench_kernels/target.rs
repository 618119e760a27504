//! Which op to look at, at which sizes.

use crate::ops::{OPS, OpCase, OpSpec};
use crate::{Error, Result};

/// An op, and sizes instead of its own bench shape.
#[derive(Clone, Debug)]
pub struct Target {
    pub op: String,
    pub shape: Option<Vec<(Option<String>, usize)>>,
}

impl Target {
    /// An op at its own shape.
    pub fn of(op: impl Into<String>) -> Self {
        Self { op: op.into(), shape: None }
    }

    /// A file's lines of `OP SHAPE`; `#` starts a comment.
    pub fn list(text: &str) -> Result<Vec<Self>> {
        let lines = text.lines().map(|l| l.split('#').next().unwrap_or_default().trim());
        let target = |line: &str| match line.split_whitespace().collect::<Vec<_>>()[..] {
            [op] => Ok(Self::of(op)),
            [op, shape] => Ok(Self { op: op.into(), shape: Some(parse_shape(shape)?) }),
            _ => Err(Error::Config(format!("'{line}' is not an op and its sizes"))),
        };
        lines.filter(|line| !line.is_empty()).map(target).collect()
    }
}

/// Parses `8008,768` or `rows=8008,c=768`.
pub fn parse_shape(text: &str) -> Result<Vec<(Option<String>, usize)>> {
    let part = |part: &str| {
        let (name, number) = match part.split_once('=') {
            Some((name, number)) => (Some(name.trim().to_owned()), number),
            None => (None, part),
        };
        let wrong = |_| Error::Config(format!("--shape {text}: '{number}' is not a size"));
        Ok((name, number.trim().parse().map_err(wrong)?))
    };
    text.split(',').map(part).collect()
}

/// The op and its case.
///
/// Errors: `Config` for an unknown op, or sizes that it does not take.
pub fn chosen(target: &Target) -> Result<(&'static dyn OpSpec, OpCase)> {
    let Some(op) = OPS.iter().copied().find(|op| op.name() == target.op) else {
        let known: Vec<_> = OPS.iter().map(|op| op.name()).collect();
        let known = known.join(", ");
        return Err(Error::Config(format!("no op '{}'; there are {known}", target.op)));
    };
    let case = match &target.shape {
        Some(shape) => reshaped(op, shape)?,
        None => op.bench_case(),
    };
    Ok((op, case))
}

/// The bench case of an op with other sizes.
fn reshaped(op: &dyn OpSpec, shape: &[(Option<String>, usize)]) -> Result<OpCase> {
    let own = op.bench_case();
    let names: Vec<&str> =
        own.label.split(',').filter_map(|p| p.split_once('=')).map(|p| p.0).collect();
    // A list at the end (lengths of sequences) may have any length.
    let is_list = names.len() > own.dims.len() || own.label.contains('[');
    let fixed = if is_list { names.len() - 1 } else { names.len() };
    let fits = if is_list { shape.len() > fixed } else { shape.len() == fixed };
    let named_wrong = shape.iter().enumerate().find(|(i, (name, _))| {
        name.as_deref().is_some_and(|name| names.get(*i).is_none_or(|own| *own != name))
    });
    if !fits || named_wrong.is_some() {
        let got: Vec<String> = shape.iter().map(|(_, n)| n.to_string()).collect();
        return Err(Error::Config(format!(
            "--shape {}: {} takes {} (its own: {})",
            got.join(","),
            op.name(),
            names.join(","),
            own.label
        )));
    }
    let dims: Vec<usize> = shape.iter().map(|&(_, n)| n).collect();
    let mut case = OpCase::new(&names[..fixed], &dims);
    if is_list {
        case.label += &format!(",{}={:?}", names[fixed], &dims[fixed..]);
    }
    Ok(case)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A line that no op takes would end the day on a GPU at its first benchmark.
    #[test]
    fn the_shapes_of_the_gpu_day_are_sizes_of_ops() {
        let targets = Target::list(include_str!("../../../scripts/gpu-day/shapes.txt")).unwrap();
        for target in &targets {
            let (op, case) = chosen(target).unwrap();
            assert!(op.has_kernels() && op.bytes(&case, 2) > 0, "{} {}", op.name(), case.label);
        }
        assert!(targets.len() >= 25, "only {} shapes", targets.len());
    }

    #[test]
    fn sizes_that_an_op_does_not_take_are_errors() {
        let error = |line: &str| chosen(&Target::list(line).unwrap()[0]).err().unwrap().to_string();
        assert!(error("layer_norm 1,2,3").contains("layer_norm takes rows,c"));
        assert!(error("layer_norm c=1,rows=2").contains("layer_norm takes rows,c"));
        assert!(error("nothing 1").contains("no op 'nothing'"));
    }
}
