//! Every tile of Hopper's kernel, executed from its PTX: rows that go elsewhere or nowhere, tokens between them. And
//! faults in how the threads of a warp turn rows round.

use super::Embedding;
use crate::Result;
use crate::device::{DType, Device, Tensor};
use crate::ops::gemm::hopper::fault_tests::{
    Fault, exchanged, expect_noticed, fault, replaced, without,
};
use crate::ops::gemm::hopper::{TILES, Tile};
use crate::ops::linear::Layer;
use crate::ops::linear::hopper_tests::{for_every_tile, hopper};
use crate::ops::linear::tests::{operand, product};
use crate::ops::row_assemble::{AssemblePlan, Assembly, RowSource};
use crate::ops::tolerance::{distance, within_bf16};
use crate::rng::{Purpose, Rng};
use crate::tape::Param;

/// Embeds; what is wrong with the result.
fn run(
    device: &Device,
    size @ [inputs, c, fan_in]: [usize; 3],
    tile: Tile,
) -> Result<Option<String>> {
    let dtype = DType::Bf16;
    let [x, w] = [(0, inputs, 1.0), (1, c, 0.1)]
        .map(|(stream, rows, scale)| operand(device, dtype, stream, &[rows, fan_in], scale));
    let positions = 2 * inputs + 1;
    let [bias, token, table] = [(2, 1), (3, 1), (4, positions)]
        .map(|(stream, rows)| operand(device, DType::F32, stream, &[rows, c], 1.0));
    // In random order, some of them nowhere, a token before every third, and two at the end.
    let order = Rng::new(7, Purpose::Test, 0, 0, 0).permutation(inputs);
    let kept = order.iter().filter(|&&row| inputs == 1 || row % 11 != 5);
    let mut places = Vec::new();
    for (i, &row) in kept.enumerate() {
        if i % 3 == 0 {
            places.push(None);
        }
        places.push(Some(row as usize));
    }
    places.extend([None, None]);
    let rows: Vec<RowSource> = places
        .iter()
        .enumerate()
        .map(|(i, &row)| RowSource { row, position: (5 * i + 3) % positions })
        .collect();
    let plan = AssemblePlan::new(device, inputs, positions, &rows)?;
    let sums = product(size, |i, k| x.host[i * fan_in + k], |k, j| w.host[j * fan_in + k]);
    let expected: Vec<f64> = rows
        .iter()
        .flat_map(|place| (0..c).map(move |j| (place, j)))
        .map(|(place, j)| {
            let value = match place.row {
                Some(row) => sums[row * c + j] + bias.host[j],
                None => token.host[j],
            };
            value + table.host[place.position * c + j]
        })
        .collect();
    let bias = Param::constant(bias.device.reshape(&[c])?);
    let layer = Layer { weight: Param::constant(w.device), bias: Some(bias) };
    let token = Param::constant(token.device);
    let with = Assembly { token: &token, table: &table.device, plan: &plan };
    let choice = Some(hopper(tile, size, 1));
    let mut y = Tensor::empty(device, dtype, &[rows.len(), c])?;
    Embedding { choice, x: &x.device, layer: &layer, with: &with }.run(&mut y)?;
    let d = distance(&y.to_f64_vec()?, &expected);
    Ok((!within_bf16(&d)).then(|| format!("{} {size:?}: {d:?}", tile.variant)))
}

#[test]
fn rows_get_positions_and_go_to_their_places() {
    for_every_tile(|device, size, tile| {
        assert_eq!(run(device, size, tile).unwrap(), None);
    });
}

const FAULTS: &[Fault] = &[
    fault("warps that do not wait", |l| without(l, "bar.warp.sync"), ""),
    fault(
        "a row's place from another thread",
        |l| replaced(l, "shfl.sync.idx", ".idx.", ".bfly."),
        "",
    ),
    fault("positions of the other column", |l| exchanged(l, "ld.global.nc.v2.f32", 0, 1), ""),
    fault("columns of a token exchanged", |l| exchanged(l, "st.global.cg.v4.u32", 0, 1), ""),
    fault(
        "columns of a row exchanged on their way in",
        |l| exchanged(l, "ld.shared.v4.u32", 1, 2),
        "",
    ),
    fault(
        "columns of a row exchanged on their way out",
        |l| exchanged(l, "st.global.v4.u32", 2, 3),
        "",
    ),
    fault("a panel transposed", |l| replaced(l, "stmatrix", ".x4.", ".x4.trans."), ""),
];

#[test]
fn faults_in_the_way_of_a_row_are_noticed() {
    let tile = TILES[1];
    let run = |device: &Device, _| run(device, [330, 200, 72], tile);
    expect_noticed("hopper/patch_embed", &[tile.variant], &[FAULTS], run);
}
