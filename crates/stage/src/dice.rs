//! Chance that can be had again.

/// A small generator of numbers with a fixed seed: a failing order can be had again.
#[derive(Debug)]
pub struct Dice(pub u64);

impl Dice {
    /// A number below `sides`; 0 when there is none.
    pub fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % sides.max(1)
    }

    /// Brings a list into another order.
    pub fn shuffle<T>(&mut self, list: &mut [T]) {
        for last in (1..list.len()).rev() {
            list.swap(last, self.roll(last + 1));
        }
    }
}
