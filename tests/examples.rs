//! The examples run. They are modules of this binary as well, because a binary of their own for each would
//! have to be linked before it could be started.

// `main` reads the command line, as that of the next one does.
#[allow(dead_code)]
#[path = "../examples/blend.rs"]
mod blend;
#[allow(dead_code)]
#[path = "../examples/embed.rs"]
mod embed;
#[path = "../examples/op.rs"]
mod op;
#[path = "../examples/pretrain.rs"]
mod pretrain;
#[path = "../examples/segment.rs"]
mod segment;

#[test]
fn blend_runs() {
    blend::run([60, 36, 45], 16, 1 << 20).unwrap();
}

#[test]
fn op_runs() {
    op::main().unwrap();
}

#[test]
fn pretrain_runs() {
    pretrain::main().unwrap();
}

#[test]
fn embed_runs() {
    embed::run(None, None).unwrap();
}

#[test]
fn segment_runs() {
    segment::main().unwrap();
}
