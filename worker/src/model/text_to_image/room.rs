//! How many rows a pass of the UNet may have: learned from what passes took, not guessed.
//!
//! On a CPU a process that takes too much is killed, so the first pass of a shape is a small one, and the process's peak
//! says what its rows took at most: later ones are as large as what is allowed. On a GPU too much is an error that harms
//! nobody: passes are as large as they come until one fails, and then never as large again.

use std::collections::HashMap;

use candle_core::Device;

use crate::model::memory::{allowed, status};

/// Rows of the first pass of a shape: one picture with guidance.
const FIRST: usize = 2;
/// Of the memory that is there, what passes leave to everything else.
const SPARE: f64 = 0.1;
const MIB: f64 = 1_048_576.0;

/// What makes rows alike: size in latents, and how many tokens they attend to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct RowShape {
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) tokens: usize,
}

/// What is known of one shape.
#[derive(Debug, Clone, Copy, Default)]
struct Known {
    /// What a row takes, in bytes; at most so much where another shape has left a higher peak.
    row_bytes: Option<f64>,
    /// So many rows were too much.
    too_many: Option<usize>,
}

/// What was learned of passes.
#[derive(Debug)]
pub(super) struct Room {
    shapes: HashMap<RowShape, Known>,
    meter: Option<Meter>,
    #[cfg(test)]
    fixed: Option<usize>,
}

/// Reads a process's memory off Linux.
#[derive(Debug, Clone, Copy)]
struct Meter {
    /// What the process takes with the model and without a pass, in bytes.
    idle: f64,
    /// What it may take, in bytes.
    allowed: f64,
}

impl Room {
    /// For a model that is loaded on `device`.
    pub(super) fn new(device: &Device) -> Self {
        let meter = || Some(Meter { idle: status("VmRSS:")?, allowed: allowed()? });
        Self {
            shapes: HashMap::new(),
            meter: if device.is_cpu() { meter() } else { None },
            #[cfg(test)]
            fixed: None,
        }
    }

    /// Passes have at most so many rows from now on, whatever is known of them.
    #[cfg(test)]
    pub(super) fn set_most(&mut self, rows: usize) {
        *self = Self { shapes: HashMap::new(), meter: None, fixed: Some(rows) };
    }

    /// Most rows of a pass.
    pub(super) fn most(&self, shape: RowShape) -> usize {
        #[cfg(test)]
        if let Some(rows) = self.fixed {
            return rows;
        }
        let known = self.shapes.get(&shape).copied().unwrap_or_default();
        let fit = match (&self.meter, known.row_bytes) {
            (None, _) => usize::MAX,
            (Some(_), None) => FIRST,
            (Some(meter), Some(row)) => ((meter.allowed * (1.0 - SPARE) - meter.idle) / row.max(1.0)).max(1.0) as usize,
        };
        known.too_many.map_or(fit, |rows| fit.min((rows / 2).max(1)))
    }

    /// A pass begins: the process's peak until now, in bytes.
    pub(super) fn before(&self) -> Option<f64> {
        // The peak is never set back: it is what others measure this process by.
        self.meter.and_then(|_| status("VmHWM:"))
    }

    /// It went well.
    pub(super) fn after(&mut self, shape: RowShape, rows: usize, before: Option<f64>) {
        let (Some(meter), Some(before), Some(peak)) = (self.meter, before, self.before()) else { return };
        self.learn(shape, (peak - meter.idle).max(0.0) / rows.max(1) as f64, peak > before);
    }

    /// A row took so much; at most so much unless the pass `rose` above the peak before.
    fn learn(&mut self, shape: RowShape, row: f64, rose: bool) {
        let known = self.shapes.entry(shape).or_default();
        if known.row_bytes.is_none() {
            let RowShape { height, width, tokens } = shape;
            tracing::info!(height, width, tokens, mebibytes = (row / MIB).round(), "measured what a row takes at most");
        }
        known.row_bytes = Some(known.row_bytes.filter(|_| !rose).map_or(row, |known| known.min(row)));
    }

    /// It did not fit.
    pub(super) fn was_too_much(&mut self, shape: RowShape, rows: usize) {
        let known = self.shapes.entry(shape).or_default();
        known.too_many = Some(known.too_many.map_or(rows, |before| before.min(rows)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: RowShape = RowShape { height: 8, width: 8, tokens: 77 };
    const LARGE: RowShape = RowShape { height: 128, ..SMALL };

    #[test]
    fn what_a_pass_took_says_how_many_rows_fit() {
        let mut room = Room::new(&Device::Cpu);
        room.meter = Some(Meter { idle: 1e9, allowed: 11e9 });
        assert_eq!((room.most(SMALL), room.most(LARGE)), (FIRST, FIRST));
        room.shapes.insert(LARGE, Known { row_bytes: Some(2e9), too_many: None });
        assert_eq!((room.most(SMALL), room.most(LARGE)), (FIRST, 4), "(11 · 0.9 − 1) / 2 rows");
        room.shapes.insert(LARGE, Known { row_bytes: Some(20e9), too_many: None });
        assert_eq!(room.most(LARGE), 1, "never none");
    }

    #[test]
    fn a_pass_is_measured_at_its_peak() {
        let mut room = Room::new(&Device::Cpu);
        let Some(before) = room.before() else { return }; // not Linux
        // more than any other test of this process takes, so that the peak rises
        let taken = std::hint::black_box(vec![1_u8; before as usize + (200 << 20)]);
        drop(taken);
        room.after(SMALL, 2, Some(before));
        let row = room.shapes[&SMALL].row_bytes.unwrap();
        assert!(row >= 100e6, "{row} bytes for half of 200 MiB or more");
        assert!(room.most(SMALL) >= 1);
    }

    #[test]
    fn a_peak_that_another_shape_left_is_a_bound_that_falls() {
        let mut room = Room { meter: Some(Meter { idle: 0.0, allowed: 10e9 }), ..Room::new(&Device::Cpu) };
        room.learn(SMALL, 4e9, false);
        assert_eq!(room.most(SMALL), 2);
        room.learn(SMALL, 1e9, false);
        room.learn(SMALL, 3e9, false);
        assert_eq!(room.most(SMALL), 9, "the lowest bound holds");
        room.learn(SMALL, 2e9, true);
        assert_eq!(room.most(SMALL), 4, "until the peak rises");
    }

    #[test]
    fn what_did_not_fit_is_never_tried_again() {
        let mut room = Room { meter: None, ..Room::new(&Device::Cpu) };
        assert_eq!(room.most(SMALL), usize::MAX);
        room.was_too_much(SMALL, 16);
        room.was_too_much(SMALL, 8);
        assert_eq!((room.most(SMALL), room.most(LARGE)), (4, usize::MAX));
        room.was_too_much(SMALL, 1);
        assert_eq!(room.most(SMALL), 1);
    }
}
