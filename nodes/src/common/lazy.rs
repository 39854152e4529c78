//! Weights that load at first use and can be freed between phases.

use std::sync::{Arc, Mutex};

use pipe_core::run::RunError;

type Load<T> = Box<dyn Fn() -> Result<T, RunError> + Send + Sync>;

/// A value that is made on demand; [`Lazy::unload`] frees it, the next use makes it again.
pub struct Lazy<T> {
    load: Load<T>,
    slot: Mutex<Option<Arc<T>>>,
}

impl<T> Lazy<T> {
    /// A value made by `load`.
    pub fn new(load: impl Fn() -> Result<T, RunError> + Send + Sync + 'static) -> Self {
        Lazy { load: Box::new(load), slot: Mutex::new(None) }
    }
    /// The value, made now if need be.
    pub fn get(&self) -> Result<Arc<T>, RunError> {
        let mut slot = self.slot.lock().unwrap_or_else(|e| e.into_inner());
        match &*slot {
            Some(value) => Ok(value.clone()),
            None => {
                let value = Arc::new((self.load)()?);
                *slot = Some(value.clone());
                Ok(value)
            }
        }
    }
    /// The value, made anew and not kept: its holder is the only one.
    pub fn take(&self) -> Result<T, RunError> {
        let kept = self.slot.lock().unwrap_or_else(|e| e.into_inner()).take();
        match kept.map(Arc::try_unwrap) {
            Some(Ok(value)) => Ok(value),
            _ => (self.load)(),
        }
    }
    /// Frees the value.
    pub fn unload(&self) {
        *self.slot.lock().unwrap_or_else(|e| e.into_inner()) = None;
    }
    /// Whether it is held now.
    pub fn is_loaded(&self) -> bool {
        self.slot.lock().unwrap_or_else(|e| e.into_inner()).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn loads_on_demand_and_again_after_unload() {
        let count = Arc::new(AtomicUsize::new(0));
        let inner = count.clone();
        let lazy = Lazy::new(move || Ok(inner.fetch_add(1, Ordering::SeqCst)));
        assert_eq!(count.load(Ordering::SeqCst), 0);
        assert_eq!((*lazy.get().unwrap(), *lazy.get().unwrap()), (0, 0));
        lazy.unload();
        assert!(!lazy.is_loaded());
        assert_eq!(*lazy.get().unwrap(), 1);
    }
}
