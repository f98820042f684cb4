//! Programs that show Postrider in use.
