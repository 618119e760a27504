//! Tensor maps: every rule of the driver's manual, and the format that the executor of PTX reads. What the executor does
//! not do is refused.

use std::ffi::{c_uint, c_void};

use glmae_simt::hopper::tensor_map::{
    Element, Fill, MAX_RANK, Promotion, Tensor, TensorMap, swizzle_from_driver,
};

use super::{Code, INVALID_VALUE, NOT_SUPPORTED, refuse, within};

#[unsafe(no_mangle)]
unsafe extern "C" fn cuTensorMapEncodeTiled(
    map: *mut c_void,
    element: c_uint,
    rank: c_uint,
    base: *mut c_void,
    dims: *const u64,
    strides: *const u64,
    box_dims: *const u32,
    element_strides: *const u32,
    interleave: c_uint,
    swizzle: c_uint,
    promotion: c_uint,
    fill: c_uint,
) -> Code {
    within(|driver| {
        if driver.card().capability < [9, 0] {
            return Err(NOT_SUPPORTED);
        }
        if !(1..=MAX_RANK).contains(&(rank as usize)) {
            return Err(refuse(format_args!("a tensor map of rank {rank}")));
        }
        if map.is_null() || !map.addr().is_multiple_of(TensorMap::ALIGNMENT as usize) {
            return Err(refuse(format_args!("a tensor map at {map:?}")));
        }
        if base.is_null() || interleave != 0 {
            return Err(refuse(format_args!(
                "a tensor map of {base:?}, interleaved by {interleave}"
            )));
        }
        // SAFETY: null, or as many entries as the rank says, by the driver's contract; no stride of the innermost.
        let (dims, strides, box_dims, element_strides) = unsafe {
            (
                list(dims, rank)?,
                list(strides, rank - 1)?,
                list(box_dims, rank)?,
                list(element_strides, rank)?,
            )
        };
        let tensor = Tensor {
            element: Element::from_driver(element).map_err(refuse)?,
            base: base.addr() as u64,
            dims,
            strides,
            element_strides,
            swizzle: swizzle_from_driver(swizzle).map_err(refuse)?,
            promotion: Promotion::from_driver(promotion).map_err(refuse)?,
            fill: Fill::from_driver(fill).map_err(refuse)?,
        };
        let made = TensorMap::tiled(&tensor, box_dims).map_err(refuse)?;
        if !is_nested(&tensor) {
            return Err(refuse(format_args!("a tensor map whose strides do not nest: {tensor:?}")));
        }
        // SAFETY: 128 bytes of the caller's.
        unsafe { map.cast::<[u8; 128]>().write(made.to_bytes()) };
        Ok(())
    })
}

/// # Safety
///
/// Null, or as many values.
unsafe fn list<'a, T>(at: *const T, count: u32) -> Result<&'a [T], Code> {
    match count {
        0 => Ok(&[]),
        _ if at.is_null() => Err(INVALID_VALUE),
        // SAFETY: by the contract.
        _ => Ok(unsafe { std::slice::from_raw_parts(at, count as usize) }),
    }
}

/// "Each following dimension stride includes the one before": every stride spans the dimensions within, and is a multiple
/// of the stride within, beyond the innermost, which may be padded by bytes.
fn is_nested(tensor: &Tensor<'_>) -> bool {
    let mut within = u128::from(tensor.element.bytes());
    tensor.strides.iter().zip(tensor.dims).enumerate().all(|(i, (&stride, &dim))| {
        let (stride, inner) = (u128::from(stride), within);
        within = stride;
        stride >= inner * u128::from(dim) && (i == 0 || stride.is_multiple_of(inner))
    })
}
