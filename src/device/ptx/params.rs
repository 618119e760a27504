//! Arguments as a kernel of PTX finds them: one behind the other in the space of parameters.

use glmae_simt::ptx::ast::Variable;

use crate::device::launch::Arg;
use crate::error::{Error, Result};

/// Packs the arguments of a kernel, each at the next multiple of its parameter's alignment (PTX ISA, 4.4 and
/// 5.1.6).
///
/// Errors: `Device` when number or sizes are not those of the PTX.
pub(super) fn pack(kernel: &str, params: &[Variable], args: &[Arg]) -> Result<Vec<u8>> {
    if params.len() != args.len() {
        return Err(Error::Device(format!(
            "kernel {kernel}: its PTX takes {} parameters, got {}",
            params.len(),
            args.len()
        )));
    }
    let mut packed = Vec::new();
    for (i, (param, arg)) in params.iter().zip(args).enumerate() {
        if param.bytes != Some(arg.size() as u64) {
            return Err(Error::Device(format!(
                "kernel {kernel}: parameter {i} of its PTX has {} bytes, the argument {}",
                param.bytes.unwrap_or(0),
                arg.size()
            )));
        }
        let start = packed.len().next_multiple_of(param.align.max(1) as usize);
        packed.resize(start + arg.size(), 0);
        arg.write(&mut packed[start..]);
    }
    Ok(packed)
}

#[cfg(test)]
mod tests {
    use glmae_simt::ptx::ast::{Space, Type};

    use super::*;
    use crate::device::launch::DevicePtr;

    fn param(ty: Type, align: u32, bytes: u64) -> Variable {
        Variable {
            name: "p".into(),
            space: Space::Param,
            ty,
            align,
            bytes: Some(bytes),
            init: Vec::new(),
            is_extern: false,
        }
    }

    #[test]
    fn every_parameter_is_at_its_own_alignment() {
        let params = [
            param(Type::U32, 4, 4),
            param(Type::U64, 8, 8),
            param(Type::B8, 1, 3),
            param(Type::F32, 4, 4),
            param(Type::B8, 16, 5),
        ];
        let args = [
            Arg::U32(0x0403_0201),
            Arg::Ptr(DevicePtr(0x1122_3344_5566_7788)),
            Arg::Pod(&[7, 8, 9]),
            Arg::F32(1.0),
            Arg::Pod(&[1, 2, 3, 4, 5]),
        ];
        let mut expected = vec![0; 37];
        expected[..4].copy_from_slice(&[1, 2, 3, 4]);
        expected[8..16].copy_from_slice(&[0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11]);
        expected[16..19].copy_from_slice(&[7, 8, 9]);
        expected[20..24].copy_from_slice(&[0, 0, 0x80, 0x3F]);
        expected[32..].copy_from_slice(&[1, 2, 3, 4, 5]);
        assert_eq!(pack("k", &params, &args).unwrap(), expected);
    }

    #[test]
    fn wrong_numbers_and_sizes_are_errors() {
        let params = [param(Type::U32, 4, 4)];
        let message = |args: &[Arg]| pack("k", &params, args).unwrap_err().to_string();
        assert!(message(&[]).contains("kernel k: its PTX takes 1 parameters, got 0"));
        let wide = message(&[Arg::U64(1)]);
        assert!(wide.contains("parameter 0 of its PTX has 4 bytes, the argument 8"), "{wide}");
    }
}
