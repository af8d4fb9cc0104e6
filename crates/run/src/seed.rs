use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// A run's seed, from which every part of the run draws its own named random stream.
///
/// A stream depends on the seed and its name alone, never on which streams were used before it,
/// so that a stage that is skipped or added leaves all others as they were.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seed(u64);

impl Seed {
    /// The seed with this number.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The number, as given to [`Seed::new`].
    pub fn value(self) -> u64 {
        self.0
    }

    /// The random stream with this name (`"sae.init"`), from its start.
    pub fn stream(self, name: &str) -> ChaCha8Rng {
        ChaCha8Rng::from_seed(self.key("realign-run 2026 random stream", name))
    }

    /// A seed of its own for a part that names its streams itself.
    pub fn derive(self, name: &str) -> Self {
        let key = self.key("realign-run 2026 derived seed", name);
        let mut first = [0; 8];
        first.copy_from_slice(&key[..8]);
        Self(u64::from_le_bytes(first))
    }

    fn key(self, context: &str, name: &str) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key(context);
        hasher.update(&self.0.to_le_bytes());
        hasher.update(name.as_bytes());
        *hasher.finalize().as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use rand::Rng;

    use super::*;

    #[test]
    fn streams_are_independent_of_the_order_of_use() {
        let seed = Seed::new(7);
        let alone = seed.stream("b").next_u64();
        let mut a = seed.stream("a");
        let first = a.next_u64();
        assert_eq!(seed.stream("b").next_u64(), alone);
        assert_ne!(first, alone);
        assert_ne!(Seed::new(8).stream("b").next_u64(), alone);
    }

    #[test]
    fn a_derived_seed_has_streams_of_its_own() {
        let (seed, part) = (Seed::new(7), Seed::new(7).derive("sae"));
        assert_ne!(seed.stream("init").next_u64(), part.stream("init").next_u64());
        assert_ne!(part, seed.derive("lora"));
        assert_eq!(part, seed.derive("sae"));
    }
}
