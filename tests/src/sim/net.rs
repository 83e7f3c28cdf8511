//! The network: delays, one-way partitions, and connections between instances that lose nothing or everything, as TCP.

use std::collections::{BTreeMap, VecDeque};

use super::rng::Rng;

/// Instances come first, then the operators.
pub const INSTANCES_MAX: usize = 5;
pub const ENDS: usize = INSTANCES_MAX + 2;

pub fn operator_end(operator: usize) -> usize {
    INSTANCES_MAX + operator
}

/// A part of what is on its way.
#[derive(Debug)]
pub enum Part {
    Bytes(Vec<u8>),
    Fin,
}

/// One end of a connection: an instance in one life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    pub node: usize,
    pub life: u64,
}

/// A replica's connection to its master. Index 0 is the replica's end and what it sends, 1 the master's.
#[derive(Debug)]
pub struct Conn {
    pub ends: [End; 2],
    pub on_the_way: [VecDeque<Part>; 2],
    /// When the last part of each direction arrives: later ones do not overtake it.
    last_us: [u64; 2],
    pub closed: [bool; 2],
}

#[derive(Debug, Default)]
pub struct Net {
    /// How many faults block this direction now.
    blocked: [[u8; ENDS]; ENDS],
    slow_us: [[u64; ENDS]; ENDS],
    pub conns: BTreeMap<u64, Conn>,
    next: u64,
}

impl Net {
    pub fn block(&mut self, from: usize, to: usize) {
        self.blocked[from][to] += 1;
    }

    pub fn unblock(&mut self, from: usize, to: usize) {
        self.blocked[from][to] -= 1;
    }

    pub fn slow(&mut self, from: usize, to: usize, us: u64) {
        self.slow_us[from][to] = us;
    }

    /// Nothing is blocked or slow any more.
    pub fn heal(&mut self) {
        (self.blocked, self.slow_us) = Default::default();
    }

    pub fn is_blocked(&self, from: usize, to: usize) -> bool {
        self.blocked[from][to] > 0
    }

    /// Both ways.
    pub fn reaches(&self, a: usize, b: usize) -> bool {
        !self.is_blocked(a, b) && !self.is_blocked(b, a)
    }

    pub fn delay_us(&self, from: usize, to: usize, rng: &mut Rng) -> u64 {
        rng.range(100, 2000) + rng.below(self.slow_us[from][to] + 1)
    }

    pub fn open(&mut self, replica: End, master: End) -> u64 {
        self.next += 1;
        let conn = Conn {
            ends: [replica, master],
            on_the_way: [VecDeque::new(), VecDeque::new()],
            last_us: [0; 2],
            closed: [false; 2],
        };
        self.conns.insert(self.next, conn);
        self.next
    }

    /// Puts a part on its way from one end; says in which direction it goes and when it arrives.
    pub fn send(&mut self, conn: u64, node: usize, part: Part, now_us: u64, rng: &mut Rng) -> Option<(usize, u64)> {
        let (from, to, side) = {
            let conn = self.conns.get(&conn)?;
            let side = usize::from(conn.ends[0].node != node);
            (conn.ends[side].node, conn.ends[1 - side].node, side)
        };
        let delay = self.delay_us(from, to, rng);
        let conn = self.conns.get_mut(&conn)?;
        if conn.closed[side] {
            return None;
        }
        conn.closed[side] = matches!(part, Part::Fin);
        conn.on_the_way[side].push_back(part);
        conn.last_us[side] = conn.last_us[side].max(now_us + delay);
        Some((side, conn.last_us[side]))
    }
}
