//! The CSR accesses that KVM exits for. There is one: `seed`, the entropy source of Zkr (scalar
//! cryptography extension, § 4).

/// CSR number of `seed`.
const SEED: u64 = 0x015;
/// `seed.OPST`, bits 31:30: ES16, the low 16 bits are fresh entropy.
const ES16: u64 = 0b10 << 30;
/// `seed.OPST`: WAIT, no entropy yet.
const WAIT: u64 = 0b01 << 30;

/// Returns what a guest reads from CSR `number`: zero unless it is `seed`.
pub fn read(number: u64) -> u64 {
    let mut entropy = [0; 2];
    match (number, getrandom::fill(&mut entropy)) {
        (SEED, Ok(())) => ES16 | u64::from(u16::from_le_bytes(entropy)),
        (SEED, Err(_)) => WAIT,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seed_is_fresh_entropy_and_says_so() {
        let seeds: Vec<_> = (0..64).map(|_| read(SEED)).collect();
        assert!(seeds.iter().all(|seed| seed >> 16 == ES16 >> 16));
        assert!(seeds.iter().any(|&seed| seed != seeds[0]));
        assert_eq!(read(0xc00), 0);
    }
}
