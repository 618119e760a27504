//! The stored types of voxels and their conversion to f32.

/// A stored type we read. Codes: `nifti1.h`, `DT_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    U8,
    I8,
    I16,
    U16,
    I32,
    U32,
    I64,
    U64,
    F32,
    F64,
}

impl Dtype {
    /// The type of a NIfTI `datatype` code, or why we do not read it.
    pub fn from_code(code: i16) -> Result<Self, String> {
        let refused = |name: &str, remedy: &str| {
            Err(format!("voxels are {name} (datatype {code}), {remedy}"))
        };
        let real = "only real numbers are read; convert the file first";
        match code {
            2 => Ok(Self::U8),
            4 => Ok(Self::I16),
            8 => Ok(Self::I32),
            16 => Ok(Self::F32),
            64 => Ok(Self::F64),
            256 => Ok(Self::I8),
            512 => Ok(Self::U16),
            768 => Ok(Self::U32),
            1024 => Ok(Self::I64),
            1280 => Ok(Self::U64),
            1 => refused("1-bit binary", "a type that is not read; convert the file to uint8"),
            32 => refused("complex64", real),
            1792 => refused("complex128", real),
            2048 => refused("complex256", real),
            1536 => refused("float128", "a type that is not read; convert the file to float64"),
            128 => refused("RGB24 colours", real),
            2304 => refused("RGBA32 colours", real),
            _ => Err(format!("datatype {code} is no NIfTI type")),
        }
    }

    /// Bytes of one voxel.
    pub fn size(self) -> usize {
        match self {
            Self::U8 | Self::I8 => 1,
            Self::I16 | Self::U16 => 2,
            Self::I32 | Self::U32 | Self::F32 => 4,
            Self::I64 | Self::U64 | Self::F64 => 8,
        }
    }

    /// Name as numpy writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::U8 => "uint8",
            Self::I8 => "int8",
            Self::I16 => "int16",
            Self::U16 => "uint16",
            Self::I32 => "int32",
            Self::U32 => "uint32",
            Self::I64 => "int64",
            Self::U64 => "uint64",
            Self::F32 => "float32",
            Self::F64 => "float64",
        }
    }

    /// Appends the values of `bytes` to `out`. Scaling is done in f64, as nibabel does, and rounded
    /// to f32 once. Bytes after the last whole value are left out.
    pub fn decode(
        self,
        bytes: &[u8],
        big_endian: bool,
        scaling: Option<(f64, f64)>,
        out: &mut Vec<f32>,
    ) {
        // One loop per type; the match on scaling and byte order stays outside of it.
        macro_rules! run {
            ($t:ty) => {{
                let values = bytes.as_chunks::<{ size_of::<$t>() }>().0.iter();
                match (big_endian, scaling) {
                    (false, None) => out.extend(values.map(|&b| <$t>::from_le_bytes(b) as f32)),
                    (true, None) => out.extend(values.map(|&b| <$t>::from_be_bytes(b) as f32)),
                    (_, Some((slope, inter))) => out.extend(values.map(|&b| {
                        let v = if big_endian {
                            <$t>::from_be_bytes(b)
                        } else {
                            <$t>::from_le_bytes(b)
                        };
                        (v as f64 * slope + inter) as f32
                    })),
                }
            }};
        }
        match self {
            Self::U8 => run!(u8),
            Self::I8 => run!(i8),
            Self::I16 => run!(i16),
            Self::U16 => run!(u16),
            Self::I32 => run!(i32),
            Self::U32 => run!(u32),
            Self::I64 => run!(i64),
            Self::U64 => run!(u64),
            Self::F32 => run!(f32),
            Self::F64 => run!(f64),
        }
    }
}
