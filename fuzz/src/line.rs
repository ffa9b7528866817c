//! A queue of a device: its driver, the model that pops what the driver offers, and the chains that
//! the device has to return in their order.

use std::collections::{VecDeque, vec_deque};

use crate::driver::{Driver, Shape};
use crate::model::{Chain, Model, Rings};
use crate::ram::{BASE, Ram};

const INDIRECT: u64 = 1 << 28;
const EVENT_IDX: u64 = 1 << 29;

/// A queue in use.
pub struct Line {
    /// Its rings.
    pub rings: Rings,
    /// What offers its chains.
    pub driver: Driver,
    /// The chains that the device has not returned.
    pub offered: VecDeque<Chain>,
    /// How many it has returned.
    pub returned: u16,
    /// The driver has offered an invalid chain.
    pub broken: bool,
    model: Model,
}

impl Line {
    /// The queue `index` of `count`, with `size` entries. Its rings are zeroed.
    pub fn new(ram: &mut Ram, index: usize, count: usize, size: u16, features: u64) -> Line {
        let table = BASE + 0x1000 * index as u64;
        let rings = Rings { size, table, driver: table + 0x800, device: table + 0xa00 };
        ram.write(table, &[0; 0x1000]);
        let accepted = |bit| features & bit != 0;
        Line {
            rings,
            model: Model::new(rings, accepted(EVENT_IDX), accepted(INDIRECT)),
            driver: Driver::sharing(rings, index as u64, count as u64),
            offered: VecDeque::new(),
            returned: 0,
            broken: false,
        }
    }

    /// Offers a chain. Returns the chains that the device can take now and could not before. A
    /// chain that does not fit, or that shares memory, which another target tests, is left out.
    pub fn offer(
        &mut self,
        ram: &mut Ram,
        readable: &[Vec<u8>],
        writable: &[u32],
        shape: &Shape,
    ) -> vec_deque::IterMut<'_, Chain> {
        let before = self.offered.len();
        let pieces: Vec<&[u8]> = readable.iter().map(Vec::as_slice).collect();
        let bytes = readable.iter().map(Vec::len).sum::<usize>();
        let bytes = bytes + writable.iter().sum::<u32>() as usize;
        let count = pieces.len() + writable.len();
        if !self.broken && !shape.is_shared() && self.driver.has_room(count, bytes) {
            self.driver.offer(ram, &pieces, writable, shape);
            loop {
                match self.model.pop(ram) {
                    Ok(Some(chain)) => self.offered.push_back(chain),
                    Ok(None) => break,
                    Err(_) => {
                        self.broken = true;
                        break;
                    }
                }
            }
        }
        self.offered.range_mut(before..)
    }

    /// The next chain that the device has returned, and the bytes that it claims to have written.
    pub fn next_returned(&mut self, ram: &mut Ram) -> Option<(Chain, u32)> {
        let device = self.rings.device;
        let size = u64::from(self.rings.size);
        ram.accept(device, 6 + 8 * size as usize);
        if self.returned == ram.u16(device + 2)? {
            return None;
        }
        let element = device + 4 + 8 * (u64::from(self.returned) % size);
        let element = ram.found(element, 8);
        let id = u32::from_le_bytes(element[..4].try_into().expect("4"));
        let written = u32::from_le_bytes(element[4..].try_into().expect("4"));
        self.returned = self.returned.wrapping_add(1);
        let chain = self.offered.pop_front().expect("more than was offered");
        assert_eq!(id, u32::from(chain.head));
        Some((chain, written))
    }
}
