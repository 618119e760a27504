//! Every tile of Hopper's kernel, executed from its PTX: rows that go elsewhere or nowhere, tokens between them.

use super::Embedding;
use crate::device::{DType, Tensor};
use crate::ops::linear::Layer;
use crate::ops::linear::hopper_tests::{for_every_tile, hopper};
use crate::ops::linear::tests::{expect, operand, product};
use crate::ops::row_assemble::{AssemblePlan, Assembly, RowSource};
use crate::rng::{Purpose, Rng};
use crate::tape::Param;

#[test]
fn rows_get_positions_and_go_to_their_places() {
    for_every_tile(|device, size @ [inputs, c, fan_in], tile| {
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
        let plan = AssemblePlan::new(device, inputs, positions, &rows).unwrap();
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
        let bias = Param::constant(bias.device.reshape(&[c]).unwrap());
        let layer = Layer { weight: Param::constant(w.device), bias: Some(bias) };
        let token = Param::constant(token.device);
        let with = Assembly { token: &token, table: &table.device, plan: &plan };
        let choice = Some(hopper(tile, size, 1));
        let mut y = Tensor::empty(device, dtype, &[rows.len(), c]).unwrap();
        Embedding { choice, x: &x.device, layer: &layer, with: &with }.run(&mut y).unwrap();
        expect(&format!("y {} {size:?}", tile.variant), dtype, &y, &expected);
    });
}
