//! Arguments as a kernel of PTX finds them: one behind the other in the space of parameters.

use glmae_simt::program::layout::Param;

use crate::device::launch::Arg;
use crate::error::{Error, Result};

/// Packs the arguments of a kernel, each where its parameter is.
///
/// Errors: `Device` when number or sizes are not those of the PTX.
pub(super) fn pack(kernel: &str, params: &[Param], args: &[Arg]) -> Result<Vec<u8>> {
    if params.len() != args.len() {
        return Err(Error::Device(format!(
            "kernel {kernel}: its PTX takes {} parameters, got {}",
            params.len(),
            args.len()
        )));
    }
    let mut packed = Vec::new();
    for (i, (param, arg)) in params.iter().zip(args).enumerate() {
        if param.bytes as usize != arg.size() {
            return Err(Error::Device(format!(
                "kernel {kernel}: parameter {i} of its PTX has {} bytes, the argument {}",
                param.bytes,
                arg.size()
            )));
        }
        let start = param.offset as usize;
        packed.resize(start + arg.size(), 0);
        arg.write(&mut packed[start..]);
    }
    Ok(packed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::launch::DevicePtr;

    fn param(offset: u32, align: u32, bytes: u32) -> Param {
        Param { offset, bytes, align }
    }

    #[test]
    fn every_argument_is_where_its_parameter_is() {
        let params =
            [param(0, 4, 4), param(8, 8, 8), param(16, 1, 3), param(20, 4, 4), param(32, 16, 5)];
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
        let params = [param(0, 4, 4)];
        let message = |args: &[Arg]| pack("k", &params, args).unwrap_err().to_string();
        assert!(message(&[]).contains("kernel k: its PTX takes 1 parameters, got 0"));
        let wide = message(&[Arg::U64(1)]);
        assert!(wide.contains("parameter 0 of its PTX has 4 bytes, the argument 8"), "{wide}");
    }
}
