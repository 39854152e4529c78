//! How often each image of several folders is used in an epoch.

/// A folder of images.
#[derive(Clone, Copy, Debug)]
pub struct Folder {
    /// Images in it.
    pub images: usize,
    /// Uses of each that its loader asks for.
    pub repeats: u64,
    /// Images of the class, to be used as often as all others together.
    pub regularization: bool,
}

/// Uses of each image of each folder.
///
/// Regularization images are taken in order, each as often as its loader says, until there are as many uses as of
/// training images; those behind are not used. Where they are too few the list is gone through again, each image with
/// one more use, as sd-scripts does.
pub fn count(folders: &[Folder]) -> Vec<Vec<u64>> {
    let wanted: u64 = folders.iter().filter(|f| !f.regularization).map(|f| f.images as u64 * f.repeats).sum();
    let own = |f: &Folder| vec![if f.regularization { 0 } else { f.repeats }; f.images];
    let mut uses: Vec<Vec<u64>> = folders.iter().map(own).collect();
    let (mut given, mut first) = (0, true);
    while given < wanted && folders.iter().any(|f| f.regularization && f.images > 0) {
        for (folder, uses) in folders.iter().zip(&mut uses).filter(|(f, _)| f.regularization) {
            for uses in uses {
                if given >= wanted {
                    break;
                }
                let more = if first { folder.repeats } else { 1 };
                *uses += more;
                given += more;
            }
        }
        first = false;
    }
    uses
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(images: usize, repeats: u64, regularization: bool) -> Folder {
        Folder { images, repeats, regularization }
    }

    #[test]
    fn regularization_images_balance_the_others() {
        // Too many: four images give the eight uses.
        let uses = count(&[folder(4, 2, false), folder(6, 2, true)]);
        assert_eq!(uses, [vec![2; 4], vec![2, 2, 2, 2, 0, 0]]);
        // Too few: again and again, until there are ten.
        let uses = count(&[folder(3, 1, true), folder(10, 1, false)]);
        assert_eq!(uses, [vec![4, 3, 3], vec![1; 10]]);
        // Two folders are one list.
        let uses = count(&[folder(5, 1, false), folder(2, 1, true), folder(1, 1, true)]);
        assert_eq!(uses[1..], [vec![2, 2], vec![1]]);
        // A use too many stays: an image is not used in part.
        assert_eq!(count(&[folder(3, 1, false), folder(2, 2, true)])[1], [2, 2]);
        assert_eq!(count(&[folder(3, 1, false), folder(0, 2, true)])[1], [0u64; 0]);
    }
}
