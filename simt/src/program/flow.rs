//! The flow of control of a kernel: basic blocks, and where the lanes of a diverging branch meet again.
//!
//! The lanes of a warp that took both sides of a branch meet at its immediate post-dominator: the first
//! instruction that every path from the branch to the end passes. Compilers place reconvergence there.

/// Where control may go after an instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    Through,
    /// To the targets; with `falls` to the next instruction as well.
    Jump {
        targets: Vec<u32>,
        falls: bool,
    },
    /// The thread ends; with `falls` only where a guard holds.
    End {
        falls: bool,
    },
}

/// Nowhere: lanes only meet when they end.
pub const NEVER: u32 = u32::MAX;

/// For every instruction: where its lanes meet again should it diverge. [`NEVER`] for those that cannot diverge.
pub fn meeting_points(next: &[Next]) -> Vec<u32> {
    let starts = block_starts(next);
    let n = starts.len();
    let block_of = |pc: u32| starts.partition_point(|&s| s <= pc) - 1;
    let end_of = |b: usize| starts.get(b + 1).map_or(next.len(), |&s| s as usize) - 1;
    // The successors of each block; n is the end of the thread.
    let successors: Vec<Vec<usize>> = (0..n)
        .map(|b| {
            let last = end_of(b);
            let follow = if last + 1 < next.len() { b + 1 } else { n };
            let mut to = match &next[last] {
                Next::Through => vec![follow],
                Next::Jump { targets, falls } => {
                    let at = |&t: &u32| if t as usize >= next.len() { n } else { block_of(t) };
                    let mut to: Vec<usize> = targets.iter().map(at).collect();
                    to.extend(falls.then_some(follow));
                    to
                }
                Next::End { falls } => {
                    let mut to = vec![n];
                    to.extend(falls.then_some(follow));
                    to
                }
            };
            to.sort_unstable();
            to.dedup();
            to
        })
        .collect();
    let dominator = post_dominators(&successors);
    let mut meet = vec![NEVER; next.len()];
    for b in 0..n {
        let last = end_of(b);
        let diverges = match &next[last] {
            Next::Jump { targets, falls } => targets.len() > 1 || *falls,
            Next::Through | Next::End { .. } => false,
        };
        if diverges && dominator[b] < n {
            meet[last] = starts[dominator[b]];
        }
    }
    meet
}

fn block_starts(next: &[Next]) -> Vec<u32> {
    let mut starts = vec![0];
    for (pc, next) in next.iter().enumerate() {
        match next {
            Next::Through => continue,
            Next::Jump { targets, .. } => starts.extend(targets),
            Next::End { .. } => {}
        }
        starts.push(pc as u32 + 1);
    }
    starts.sort_unstable();
    starts.dedup();
    starts.retain(|&s| (s as usize) < next.len());
    starts
}

/// The immediate post-dominator of every block, by the method of Cooper, Harvey and Kennedy on the reversed
/// graph. The last index is the end; blocks from which no path leads there (endless loops) get it as well.
fn post_dominators(successors: &[Vec<usize>]) -> Vec<usize> {
    let end = successors.len();
    let mut before: Vec<Vec<usize>> = vec![Vec::new(); end + 1];
    for (b, to) in successors.iter().enumerate() {
        to.iter().for_each(|&t| before[t].push(b));
    }
    // Post-order of the reversed graph from the end, without recursion.
    let mut order = vec![usize::MAX; end + 1];
    let mut sequence = Vec::with_capacity(end + 1);
    let mut seen = vec![false; end + 1];
    let mut stack = vec![(end, 0)];
    seen[end] = true;
    while let Some((node, i)) = stack.pop() {
        match before[node].get(i) {
            Some(&to) => {
                stack.push((node, i + 1));
                if !seen[to] {
                    seen[to] = true;
                    stack.push((to, 0));
                }
            }
            None => {
                order[node] = sequence.len();
                sequence.push(node);
            }
        }
    }
    let mut dominator = vec![usize::MAX; end + 1];
    dominator[end] = end;
    let mut changed = true;
    while changed {
        changed = false;
        for &b in sequence.iter().rev().filter(|&&b| b != end) {
            let known = successors[b].iter().copied().filter(|&s| dominator[s] != usize::MAX);
            let meet = known.reduce(|mut x, mut y| {
                while x != y {
                    while order[x] < order[y] {
                        x = dominator[x];
                    }
                    while order[y] < order[x] {
                        y = dominator[y];
                    }
                }
                x
            });
            if let Some(meet) = meet
                && dominator[b] != meet
            {
                dominator[b] = meet;
                changed = true;
            }
        }
    }
    dominator.pop();
    dominator.iter_mut().for_each(|d| *d = (*d).min(end));
    dominator
}

#[cfg(test)]
mod tests {
    use super::*;

    fn branch(target: u32) -> Next {
        Next::Jump { targets: vec![target], falls: true }
    }

    fn jump(target: u32) -> Next {
        Next::Jump { targets: vec![target], falls: false }
    }

    #[test]
    fn an_if_and_an_else_meet_behind_both() {
        // 0: branch to 3; 1: then; 2: jump 4; 3: else; 4: end
        let flow = [branch(3), Next::Through, jump(4), Next::Through, Next::End { falls: false }];
        assert_eq!(meeting_points(&flow), [4, NEVER, NEVER, NEVER, NEVER]);
    }

    #[test]
    fn the_exit_of_a_loop_is_where_its_lanes_meet() {
        let flow = [Next::Through, Next::Through, branch(1), Next::End { falls: false }];
        assert_eq!(meeting_points(&flow), [NEVER, NEVER, 3, NEVER]);
    }

    #[test]
    fn a_loop_with_a_break_in_a_nested_if() {
        // 0 loop head: branch to 4 (break); 1: branch to 3 (skip); 2: body; 3: branch to 0; 4: end
        let flow = [branch(4), branch(3), Next::Through, branch(0), Next::End { falls: false }];
        assert_eq!(meeting_points(&flow), [4, 3, NEVER, 4, NEVER]);
    }

    #[test]
    fn sides_that_end_the_thread_never_meet() {
        let flow = [branch(2), Next::End { falls: false }, Next::End { falls: false }];
        assert_eq!(meeting_points(&flow), [NEVER; 3]);
        // Some lanes return early, the others go on: nothing to wait for.
        let flow = [branch(2), Next::Through, Next::End { falls: false }];
        assert_eq!(meeting_points(&flow)[0], 2);
        let flow =
            [branch(2), Next::Through, Next::End { falls: true }, Next::End { falls: false }];
        assert_eq!(meeting_points(&flow)[0], 2);
    }

    #[test]
    fn an_endless_loop_has_no_meeting_point_and_ends_the_analysis() {
        let flow = [branch(2), Next::Through, jump(2)];
        assert_eq!(meeting_points(&flow), [NEVER; 3]);
        let flow = [branch(3), Next::Through, jump(1), Next::End { falls: false }];
        assert_eq!(meeting_points(&flow)[0], 3);
    }

    /// Against the definition: removing the meeting point cuts every path from the branch to the end.
    #[test]
    fn random_graphs_agree_with_the_definition() {
        let mut state = 7u64;
        let mut random = |n: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % n
        };
        let mut found = 0;
        for _ in 0..2000 {
            let n = 3 + random(12) as usize;
            let flow: Vec<Next> = (0..n)
                .map(|i| match random(4) {
                    _ if i == n - 1 => Next::End { falls: false },
                    0 => branch(random(n as u64) as u32),
                    1 => jump(random(n as u64) as u32),
                    2 => Next::End { falls: true },
                    _ => Next::Through,
                })
                .collect();
            let steps = |pc: usize| -> Vec<usize> {
                match &flow[pc] {
                    Next::Through => vec![pc + 1],
                    Next::Jump { targets, falls } => {
                        let mut to: Vec<usize> = targets.iter().map(|&t| t as usize).collect();
                        to.extend(falls.then_some(pc + 1));
                        to
                    }
                    Next::End { falls } if *falls => vec![n, pc + 1],
                    Next::End { .. } => vec![n],
                }
            };
            let reaches_end = |from: usize, without: usize| {
                let (mut seen, mut stack) = (vec![false; n + 1], vec![from]);
                while let Some(at) = stack.pop() {
                    if at != without && !std::mem::replace(&mut seen[at], true) && at < n {
                        stack.extend(steps(at));
                    }
                }
                seen[n]
            };
            for (pc, &meet) in meeting_points(&flow).iter().enumerate() {
                if meet == NEVER {
                    continue;
                }
                found += 1;
                assert!(reaches_end(pc, n + 1), "{flow:?}: {pc} never ends");
                let beyond = steps(pc).iter().any(|&s| reaches_end(s, meet as usize));
                assert!(!beyond, "{flow:?}: a path from {pc} misses {meet}");
            }
        }
        assert!(found > 1000, "only {found} meeting points");
    }
}
