//! The opcodes that are implemented, at least with some modifiers. Others are refused before any decoder sees them,
//! so that tests can ask for a case of each.

/// All of them, in alphabetical order.
#[rustfmt::skip]
pub const OPCODES: &[&str] = &[
    "abs", "activemask", "add", "and", "applypriority", "atom", "bar", "barrier", "bfe", "bfi",
    "bfind", "bra", "brev", "brx", "clz", "cnot", "copysign", "cos", "cp", "cvt", "cvta", "div",
    "elect", "ex2", "exit", "fence", "fma", "griddepcontrol", "isspacep", "ld", "ldmatrix", "ldu",
    "lg2", "lop3", "mad", "mapa", "match", "max", "mbarrier", "membar", "min", "mma", "mov", "mul",
    "nanosleep", "neg", "not", "or", "popc", "prefetch", "prefetchu", "prmt", "rcp", "red", "redux",
    "rem", "ret", "rsqrt", "selp", "set", "setmaxnreg", "setp", "shf", "shfl", "shl", "shr", "sin",
    "sqrt", "st", "stmatrix", "sub", "tanh", "trap", "vote", "wgmma", "xor",
];
