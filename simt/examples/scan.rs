use glmae_simt::program::{Numerics, Program};
use std::collections::BTreeMap;
fn main() {
    let mut bad: BTreeMap<String, (usize, String)> = BTreeMap::new();
    let (mut ok, mut insts) = (0, 0);
    for path in std::env::args().skip(1) {
        let text = std::fs::read_to_string(&path).unwrap();
        let module = glmae_simt::ptx::parse(&path, &text).unwrap();
        for f in module.functions.iter().filter(|f| f.is_entry) {
            match Program::new(&module, &f.name, Numerics::default()) {
                Ok(p) => {
                    ok += 1;
                    insts += p.instructions.len();
                }
                Err(e) => {
                    let x = bad
                        .entry(format!("{} / {}", e.instruction, e.message))
                        .or_insert((0, e.to_string()));
                    x.0 += 1;
                }
            }
        }
    }
    println!("{ok} kernels, {insts} instructions");
    for (k, (n, e)) in bad {
        println!("{n} {k}    {e}");
    }
}
