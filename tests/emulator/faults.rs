//! Every class of fault is provoked and must be reported, with the kernel, the thread and the line;
//! and the correct form beside it must pass.

use glmae::device::abi::GRAD_ACCUMULATE;
use glmae::device::emulated::{Emulated, Mode, Schedule};
use glmae::device::launch::{Arg, DevicePtr, LaunchConfig};

use super::{SCHEDULES, device, download, out_of as out, upload};

/// Runs a kernel of faults.cu on fresh checked devices, under every schedule, with `args` made from
/// the device. All must fail, and every message must hold all of `parts`.
fn fails<'a>(
    name: &str,
    config: LaunchConfig,
    args: impl Fn(&Emulated) -> Vec<Arg<'a>>,
    parts: &[&str],
) {
    for schedule in SCHEDULES {
        let device = device(Mode::Checked, schedule);
        let args = args(&device);
        let outcome = device.launch(name, &config, &args);
        let Err(error) = outcome else { panic!("{name} under {schedule:?} was not reported") };
        let message = error.to_string();
        for part in parts.iter().chain(&[name, "kernels/emulate/faults.cu:"]) {
            assert!(message.contains(part), "{name} under {schedule:?}: no '{part}' in: {message}");
        }
    }
}

fn passes<'a>(name: &str, config: LaunchConfig, args: impl Fn(&Emulated) -> Vec<Arg<'a>>) {
    for schedule in SCHEDULES {
        let device = device(Mode::Checked, schedule);
        let args = args(&device);
        if let Err(error) = device.launch(name, &config, &args) {
            panic!("{name} under {schedule:?}: {error}");
        }
    }
}

fn input(device: &Emulated, floats: usize) -> Arg<'static> {
    upload(device, "x", &vec![1.0f32; floats]).into()
}

fn one_block(threads: u32) -> LaunchConfig {
    LaunchConfig::linear(1, threads)
}

#[test]
fn global_memory_out_of_bounds() {
    let n = 100;
    let args = |d: &Emulated| vec![out(d, n), Arg::I32(n as i32)];
    fails(
        "fault_global_write_past_end",
        LaunchConfig::linear(2, 64),
        args,
        &["write of 4 bytes reaches ", " bytes past the end of 'y' (400 bytes)", "block (1, 0, 0)"],
    );
    passes("fault_global_write_past_end", LaunchConfig::linear(1, 64), args);
    fails(
        "fault_global_read_before_start",
        one_block(32),
        |d| vec![out(d, 32), input(d, 32)],
        &["read of 4 bytes", "bytes before 'x'", "thread (0, 0, 0)"],
    );
    let vector = |n: usize| move |d: &Emulated| vec![out(d, 64), input(d, n), Arg::I32(n as i32)];
    fails(
        "fault_global_vector_past_end",
        one_block(8),
        vector(30),
        &["16 bytes reaches 8 bytes past the end of 'x'"],
    );
    passes("fault_global_vector_past_end", one_block(8), vector(32));
    fails(
        "fault_null_pointer",
        one_block(32),
        |_| vec![DevicePtr::NULL.into()],
        &["the null pointer"],
    );
}

#[test]
fn misaligned_vector() {
    fails(
        "fault_global_misaligned",
        one_block(1),
        |d| vec![out(d, 8), input(d, 8)],
        &["misaligned"],
    );
}

#[test]
fn memory_that_was_never_written() {
    let poisoned = |d: &Emulated| vec![out(d, 32), d.alloc(128, "x").unwrap().into()];
    let parts = ["read of 4 bytes", "of 'x'", "never written"];
    fails("fault_global_copy", one_block(32), poisoned, &parts);
    passes("fault_global_copy", one_block(32), |d| vec![out(d, 32), input(d, 32)]);
    passes("fault_global_struct", one_block(8), |d| vec![out(d, 24), input(d, 24)]);
    fails(
        "fault_global_struct",
        one_block(8),
        |d| vec![out(d, 24), input(d, 23)],
        &["past the end of 'x'"],
    );
    // A part of a buffer, a copy of poison, and the host's own reads.
    let device = device(Mode::Checked, Schedule::Ascending);
    let (a, b) = (device.alloc(64, "a").unwrap(), device.alloc(64, "b").unwrap());
    device.fill(a, 0, 60).unwrap();
    device.copy(b, a, 64).unwrap();
    let mut bytes = [1u8; 64];
    device.download(b, &mut bytes[..60]).unwrap();
    assert_eq!(bytes[..60], [0; 60]);
    let message = device.download(b, &mut bytes).unwrap_err().to_string();
    assert!(message.contains("byte 60 of 'b', which was never written"), "{message}");
}

#[test]
fn use_after_free() {
    let device = device(Mode::Checked, Schedule::Ascending);
    let freed = upload(&device, "old", &[1.0f32; 32]);
    device.free(freed).unwrap();
    let y = device.alloc(128, "y").unwrap();
    for error in [
        device.launch("fault_global_copy", &one_block(32), &[y.into(), freed.into()]).unwrap_err(),
        device.upload(freed, &[0; 4]).unwrap_err(),
        device.download(freed, &mut [0; 4]).unwrap_err(),
    ] {
        assert!(error.to_string().contains("of 'old', which was freed"), "{error}");
    }
    assert!(device.free(freed).is_err(), "double free");
    assert!(device.free(y.offset(4)).is_err(), "free of an inner address");
}

#[test]
fn guards_tell_a_plain_device() {
    let device = device(Mode::Plain, Schedule::Ascending);
    let y = device.alloc(4 * 60, "y").unwrap();
    let args = [y.into(), Arg::I32(60)];
    let message = device
        .launch("fault_global_write_past_end", &one_block(64), &args)
        .unwrap_err()
        .to_string();
    assert!(message.contains("just outside 'y' (240 bytes)"), "{message}");
}

#[test]
fn shared_memory() {
    let args = |barrier: i32| move |d: &Emulated| vec![out(d, 64), input(d, 64), Arg::I32(barrier)];
    // Without the barrier a thread reads what is not there yet, or what another wrote meanwhile.
    fails(
        "fault_shared_reverse",
        one_block(64),
        args(0),
        &["'__shared__ tile'", "read of 4 bytes"],
    );
    passes("fault_shared_reverse", one_block(64), args(1));
    let y = |n: i32| move |d: &Emulated| vec![out(d, 64), Arg::I32(n)];
    fails("fault_shared_unwritten", one_block(64), y(63), &["'__shared__ tile'", "never written"]);
    passes("fault_shared_unwritten", one_block(64), y(64));
    fails("fault_shared_past_end", one_block(64), y(1), &["write of 4 bytes"]);
    passes("fault_shared_past_end", one_block(64), y(0));
    fails("fault_shared_array_index", one_block(16), y(4), &["outside an array"]);
    let dynamic = one_block(64).shared(256);
    fails("fault_dynamic_shared_past_end", dynamic, y(1), &["dynamic shared memory (256 bytes)"]);
    passes("fault_dynamic_shared_past_end", dynamic, y(0));
}

#[test]
fn barriers() {
    let y = |n: i32| move |d: &Emulated| vec![out(d, 64), Arg::I32(n)];
    fails(
        "fault_barrier_early_return",
        one_block(64),
        y(5),
        &["barrier 0 reached by only 59 of 64 threads", "has returned"],
    );
    passes("fault_barrier_early_return", one_block(64), y(0));
    fails("fault_barrier_divergent", one_block(64), y(32), &["divergent barrier"]);
    passes("fault_barrier_divergent", one_block(64), y(0));
}

#[test]
fn warp_operations() {
    let y = |n: i32| move |d: &Emulated| vec![out(d, 64), Arg::I32(n)];
    let only_y = |d: &Emulated| vec![out(d, 64)];
    let absent = ["mask 0xffffffff", "is absent, it has returned"];
    fails("fault_shuffle_absent_lane", one_block(64), y(3), &absent);
    passes("fault_shuffle_absent_lane", one_block(64), y(0));
    passes("fault_shuffle_absent_lane", one_block(64), y(32));
    fails("fault_shuffle_absent_lane", one_block(48), y(0), &["absent: the warp has 16"]);
    fails("fault_shuffle_source_outside_mask", one_block(64), only_y, &["mask does not name"]);
    fails(
        "fault_shuffle_mask_without_caller",
        one_block(64),
        only_y,
        &["not name the calling lane"],
    );
    fails("fault_syncwarp_after_return", one_block(64), y(3), &absent);
    passes("fault_syncwarp_after_return", one_block(64), y(32));
}

#[test]
fn races_within_a_warp() {
    let y = |n: i32| move |d: &Emulated| vec![out(d, 64), Arg::I32(n)];
    fails("fault_warp_exchange", one_block(64), y(0), &["'__shared__ tile'"]);
    fails("fault_warp_exchange", one_block(64), y(1), &["data race", "'__shared__ tile'"]);
    passes("fault_warp_exchange", one_block(64), y(2));
    passes("fault_half_warp_exchange", one_block(32), y(0));
    fails("fault_half_warp_exchange", one_block(32), y(1), &["'__shared__ tile'"]);
}

#[test]
fn named_barriers() {
    let y = |n: i32| move |d: &Emulated| vec![out(d, 32), Arg::I32(n)];
    passes("fault_named_barrier", one_block(128), y(1));
    fails("fault_named_barrier", one_block(128), y(0), &["'__shared__ tile'"]);
}

#[test]
fn races_in_global_memory() {
    let only_y = |d: &Emulated| vec![out(d, 64)];
    fails(
        "fault_race_write_write",
        one_block(64),
        only_y,
        &["data race", "written by thread (", " (kernels/emulate/faults.cu:"],
    );
    let in_place = |d: &Emulated| vec![input(d, 64); 2];
    fails("fault_race_read_write", one_block(64), in_place, &["data race", "of 'x'"]);
    passes("fault_race_read_write", one_block(64), |d| vec![out(d, 64), input(d, 64)]);
    let blocks = LaunchConfig::linear(2, 64);
    let between = ["data race", "of block ("];
    fails("fault_race_blocks_write", blocks, only_y, &between);
    passes("fault_race_blocks_write", LaunchConfig::linear(1, 64), only_y);
    fails("fault_race_blocks_read", LaunchConfig::linear(64, 64), in_place, &between);
    passes("fault_race_blocks_read", blocks, |d| vec![out(d, 2), input(d, 2)]);
}

#[test]
fn atomics() {
    let zero = |d: &Emulated| vec![upload(d, "y", &[0.0f32]).into()];
    fails("fault_atomic_float", one_block(64), zero, &["atomic on a float"]);
    fails("fault_atomic_and_plain", one_block(64), zero, &["data race"]);
    for schedule in SCHEDULES {
        let device = device(Mode::Checked, schedule);
        let sum = upload(&device, "sum", &[0i32]);
        let largest = upload(&device, "largest", &[-1i32]);
        let config = LaunchConfig::linear(9, 64);
        device.launch("fault_atomic_int", &config, &[sum.into(), largest.into()]).unwrap();
        assert_eq!(download::<i32>(&device, sum, 1), [576]);
        assert_eq!(download::<i32>(&device, largest, 1), [575]);
    }
}

#[test]
fn the_last_block_may_read_what_the_others_left() {
    let args = |ordered: i32| {
        move |d: &Emulated| {
            let parts = upload(d, "parts", &[0.0f32; 50]).into();
            vec![out(d, 1), parts, upload(d, "tickets", &[0u32]).into(), Arg::I32(ordered)]
        }
    };
    passes("fault_last_block", LaunchConfig::linear(50, 64), args(1));
    fails("fault_last_block", LaunchConfig::linear(50, 64), args(0), &["data race", "of 'parts'"]);
}

#[test]
fn asynchronous_copies() {
    let args = |mode: i32| move |d: &Emulated| vec![out(d, 256), input(d, 256), Arg::I32(mode)];
    passes("fault_async_copy", one_block(64), args(0));
    let not_waited = ["asynchronous copy was not waited for"];
    fails("fault_async_copy", one_block(64), args(1), &not_waited);
    fails("fault_async_copy", one_block(64), args(2), &["'__shared__ tile'"]);
    fails("fault_async_copy", one_block(64), args(3), &not_waited);
    fails("fault_async_copy", one_block(64), args(4), &["asynchronous copy", "data race"]);
    let short = |d: &Emulated| vec![out(d, 256), input(d, 255), Arg::I32(0)];
    fails("fault_async_copy", one_block(64), short, &["past the end of 'x'"]);
}

#[test]
fn arithmetic() {
    let y = |n: i32| move |d: &Emulated| vec![out(d, 64), Arg::I32(n)];
    fails("fault_index_overflow", one_block(1), y(50_000), &["integer overflow"]);
    passes("fault_index_overflow", one_block(1), y(40_000));
    fails("fault_division_by_zero", one_block(64), y(0), &["division by zero"]);
    fails("fault_trap", one_block(64), |d| vec![out(d, 64)], &["__trap()", "thread (3, 0, 0)"]);
}

#[test]
fn arguments_are_checked_before_the_launch() {
    let device = device(Mode::Checked, Schedule::Ascending);
    let y = device.alloc(32, "y").unwrap();
    let pod = [7u64, 0x4110_0000 | 11 << 32]; // a = 7, b = 9.0, c = 11
    let good = [
        y.into(),
        Arg::I32(-1),
        Arg::U32(2),
        Arg::I64(-3),
        Arg::U64(4),
        Arg::F32(5.5),
        Arg::Pod(bytemuck::cast_slice(&pod)),
    ];
    let launch =
        |config: LaunchConfig, args: &[Arg]| device.launch("fault_arguments", &config, args);
    launch(one_block(8), &good).unwrap();
    assert_eq!(download::<f32>(&device, y, 8), [-1.0, 2.0, -3.0, 4.0, 5.5, 7.0, 9.0, 11.0]);
    let refused = |args: &[Arg], part: &str| {
        let message = launch(one_block(8), args).unwrap_err().to_string();
        assert!(message.contains(part), "no '{part}' in: {message}");
    };
    refused(&good[..6], "takes 7 arguments, got 6");
    for (i, wrong) in [
        (0, Arg::U64(1)),
        (1, Arg::I64(1)),
        (1, Arg::F32(1.0)),
        (2, Arg::I32(1)),
        (5, Arg::I32(1)),
        (6, Arg::Pod(&[0; 12])),
    ] {
        let mut args = good;
        args[i] = wrong;
        refused(&args, &format!("argument {i} is"));
    }
    let mut args = good;
    args[0] = Arg::Ptr(DevicePtr(0x1000));
    refused(&args, "argument 0 points to");
}

#[test]
fn limits_are_those_of_a_device() {
    let device = device(Mode::Plain, Schedule::Ascending);
    let y = device.alloc(4 << 10, "y").unwrap();
    let refused = |name: &str, config: LaunchConfig, part: &str| {
        let message =
            device.launch(name, &config, &[y.into(), Arg::I32(0)]).unwrap_err().to_string();
        assert!(message.contains(part), "no '{part}' in: {message}");
    };
    let name = "fault_dynamic_shared_past_end";
    refused("no_such_kernel", one_block(1), "no kernel 'no_such_kernel'");
    refused("fault_global_write_past_end", one_block(1025), "is outside");
    let square = LaunchConfig { grid: [1, 1, 1], block: [64, 32, 1], shared_bytes: 0 };
    refused("fault_global_write_past_end", square, "2048 threads in a block, at most 1024");
    refused(name, one_block(65), "65 threads in a block, at most 64");
    refused(name, LaunchConfig::linear(0, 32), "is outside");
    let tall = LaunchConfig { grid: [1, 65_536, 1], block: [1, 1, 1], shared_bytes: 0 };
    refused(name, tall, "is outside");
    refused(name, one_block(64).shared((227 << 10) + 1), "at most 232448");
    let large = one_block(64).shared(227 << 10);
    refused(name, large, "opting in");
    device.allow_shared(name, 227 << 10).unwrap();
    device.launch(name, &large, &[y.into(), Arg::I32(0)]).unwrap();
    assert!(device.allow_shared(name, (227 << 10) + 1).is_err());
    assert_eq!(GRAD_ACCUMULATE, 1);
}

#[test]
fn static_shared_memory_counts() {
    let device = device(Mode::Plain, Schedule::Ascending);
    let y = device.alloc(1 << 10, "y").unwrap();
    let name = "fault_static_and_dynamic";
    let launch = |bytes: u32| {
        let args = [y.into(), Arg::I32((bytes / 4) as i32 - 1)];
        device.launch(name, &one_block(256).shared(bytes), &args)
    };
    launch(47 << 10).unwrap();
    let message = launch(48 << 10).unwrap_err().to_string();
    assert!(message.contains("49152 bytes of shared memory and 1024 static ones"), "{message}");
    device.allow_shared(name, 48 << 10).unwrap();
    launch(48 << 10).unwrap();
    let expected: Vec<f32> = (0..256).map(|i| i as f32 + 1.0).collect();
    assert_eq!(download::<f32>(&device, y, 256), expected);
    device.allow_shared(name, 226 << 10).unwrap();
    let message = device.allow_shared(name, 227 << 10).unwrap_err().to_string();
    assert!(message.contains("233472 bytes of shared memory (1024 of them static)"), "{message}");
}

/// After a report the device and its OS threads are as good as new.
#[test]
fn a_fault_leaves_nothing_behind() {
    let device = device(Mode::Checked, Schedule::Shuffled(3));
    let (y, x) = (device.alloc(256, "y").unwrap(), upload(&device, "x", &[2.0f32; 64]));
    for _ in 0..20 {
        let args = [y.into(), x.into(), Arg::I32(0)];
        assert!(device.launch("fault_shared_reverse", &one_block(64), &args).is_err());
        let args = [y.into(), x.into(), Arg::I32(1)];
        device.launch("fault_shared_reverse", &one_block(64), &args).unwrap();
        assert_eq!(download::<f32>(&device, y, 64), [2.0; 64]);
    }
}
