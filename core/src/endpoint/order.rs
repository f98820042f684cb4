//! Whether an endpoint's events keep their order.

/// Which events of an endpoint are delivered one after the other, in the order of acceptance.
///
/// Kept is the order in which the receiver first takes each event over. It needs a store with
/// history that no other process uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Order {
    /// None: every event goes as soon as it can.
    #[default]
    None,
    /// Events of one key; an event without a key is not ordered.
    Key,
    /// All events of the endpoint, whatever their keys.
    All,
}

/// What happens to the events behind one that was given up, where an [`Order`] is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OnDead {
    /// It goes to the dead letters and the next one follows.
    #[default]
    Park,
    /// The events behind it wait until it is replayed and delivered, or purged.
    Block,
}
