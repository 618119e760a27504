//! What a benchmark reports, and what it refuses.

use super::*;

fn options(ops: &[&str], device: Device) -> KernelBenchOptions {
    KernelBenchOptions {
        device,
        dtype: DType::F32,
        targets: ops.iter().map(|&op| Target::of(op)).collect(),
        warmup: 0,
        repeats: 3,
        ceilings: false,
    }
}

fn run(options: &KernelBenchOptions) -> Result<KernelBench> {
    bench_kernels(options, &mut |_| Ok(()))
}

#[test]
fn a_list_of_shapes_is_timed_in_its_order_and_shows_what_there_is_so_far() {
    let text = "layer_norm rows=3,c=8   # a comment\n\n# another\ngrad_norm 77\n";
    let targets = Target::list(text).unwrap();
    let options = KernelBenchOptions { targets, ..options(&[], Device::Cpu) };
    let mut seen = Vec::new();
    let bench = bench_kernels(&options, &mut |bench| {
        seen.push(bench.rows.len());
        Ok(())
    });
    let ops: Vec<_> = bench.unwrap().rows.iter().map(|row| row.op.clone()).collect();
    assert_eq!(ops, ["layer_norm", "layer_norm", "grad_norm"]);
    assert_eq!(seen, [2, 3]);
    assert!(Target::list("layer_norm 3,4 5").is_err());
}

#[test]
fn rows_are_complete_and_consistent() {
    let mut options = options(&["layer_norm"], Device::Cpu);
    options.targets[0].shape = Some(parse_shape("rows=64,c=48").unwrap());
    let bench = run(&options).unwrap();
    let passes: Vec<_> = bench.rows.iter().map(|row| (row.pass, row.repeats)).collect();
    assert_eq!(passes, [("fwd", 3), ("bwd", 3)]);
    for row in &bench.rows {
        assert_eq!(row.case, "rows=64,c=48");
        assert!(row.us_min > 0.0 && row.us_min <= row.us && row.us <= row.us_max);
        assert!((row.gb_s * row.us * 1e3 / row.bytes as f64 - 1.0).abs() < 1e-9);
        assert!(row.sets * row.set_bytes >= 32 * 64 * 48 * 4);
    }
    assert_eq!(bench.rows[0].bytes, 2 * 64 * 48 * 4);
}

#[test]
fn updates_have_no_backward_and_emulated_kernels_run() {
    let bench = run(&options(&["grad_norm"], Device::Cpu)).unwrap();
    assert_eq!(bench.rows.len(), 1);
    let device = Device::parse("emulated").unwrap();
    let mut options = options(&["layer_norm"], device);
    options.targets[0].shape = Some(parse_shape("5,32").unwrap());
    options.dtype = DType::Bf16;
    let rows = run(&options).unwrap().rows;
    assert_eq!(rows.len(), 2);
    assert_eq!((rows[0].sets, rows[0].bytes), (1, 2 * 5 * 32 * 2));
}

#[test]
fn wrong_requests_are_refused() {
    let refused = |ops: &[&str], shape: &str| {
        let mut options = options(ops, Device::Cpu);
        options.targets[0].shape = Some(parse_shape(shape).unwrap());
        run(&options).unwrap_err().to_string()
    };
    assert!(refused(&["layer_norm"], "3").contains("takes rows,c"));
    assert!(refused(&["layer_norm"], "c=3,rows=4").contains("takes rows,c"));
    assert!(refused(&["nothing"], "3").contains("no op 'nothing'"));
    assert!(parse_shape("3,x").is_err());
    let mut bf16 = options(&["layer_norm"], Device::Cpu);
    bf16.dtype = DType::Bf16;
    assert!(run(&bf16).is_err());
}

#[test]
fn rows_say_which_kernels_their_products_were_given() {
    let mut options = options(&["linear"], Device::parse("emulated").unwrap());
    options.targets[0].shape = Some(parse_shape("rows=40,in=24,out=16,epilogue=1,bias=1").unwrap());
    options.dtype = DType::Bf16;
    let rows = run(&options).unwrap().rows;
    let kernels = |row: &Row| -> Vec<String> {
        row.products.iter().map(|product| product.kernel.clone()).collect()
    };
    assert_eq!(kernels(&rows[0]), ["linear_fwd_bf16_64x64"]);
    assert_eq!(kernels(&rows[1]), ["linear_bwd_x_bf16_64x64", "linear_bwd_params_bf16_64x64"]);
}
