//! How often each image of several folders is used in an epoch.

/// A folder of images.
#[derive(Clone, Copy, Debug)]
pub struct Folder {
    /// Images in it.
    pub images: usize,
    /// Uses of each that its loader asks for.
    pub repeats: u64,
    /// Requested size. Folders of one size form a data set.
    pub resolution: (usize, usize),
    /// Images of the class, to be used as often as the others of the data set together.
    pub regularization: bool,
}

/// Uses of each image of each folder.
///
/// Regularization images balance the training images of the same size; those of a size that no training images have
/// balance the training images that are left. They are taken in order, each as often as its loader says, until there are
/// as many uses as of training images; those behind are not used. Where they are too few the list is gone through again,
/// each image with one more use, as sd-scripts does.
pub fn count(folders: &[Folder]) -> Vec<Vec<u64>> {
    let own = |f: &Folder| vec![if f.regularization { 0 } else { f.repeats }; f.images];
    let mut uses: Vec<Vec<u64>> = folders.iter().map(own).collect();
    for (set, wanted) in sets(folders) {
        let (mut given, mut first) = (0, true);
        while given < wanted && set.iter().any(|&f| folders[f].images > 0) {
            for &f in &set {
                for uses in &mut uses[f] {
                    if given >= wanted {
                        break;
                    }
                    let more = if first { folders[f].repeats } else { 1 };
                    *uses += more;
                    given += more;
                }
            }
            first = false;
        }
    }
    uses
}

/// Folders of regularization images that are one list, and the uses that they are to balance.
fn sets(folders: &[Folder]) -> Vec<(Vec<usize>, u64)> {
    let has =
        |regularization: bool, size| folders.iter().any(|f| f.regularization == regularization && f.resolution == size);
    // The size that is balanced; nothing: all that has no regularization images of its own.
    let balances = |f: &Folder| has(false, f.resolution).then_some(f.resolution);
    let mut sets: Vec<(Vec<usize>, u64)> = Vec::new();
    for (f, folder) in folders.iter().enumerate().filter(|(_, folder)| folder.regularization) {
        let of = balances(folder);
        if let Some((set, _)) = sets.iter_mut().find(|(set, _)| balances(&folders[set[0]]) == of) {
            set.push(f);
            continue;
        }
        let balanced = |f: &&Folder| match of {
            Some(size) => f.resolution == size,
            None => !has(true, f.resolution),
        };
        let trained = folders.iter().filter(|f| !f.regularization).filter(balanced);
        sets.push((vec![f], trained.map(|f| f.images as u64 * f.repeats).sum()));
    }
    sets
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(images: usize, repeats: u64, regularization: bool) -> Folder {
        of_size(64, images, repeats, regularization)
    }

    fn of_size(side: usize, images: usize, repeats: u64, regularization: bool) -> Folder {
        Folder { images, repeats, resolution: (side, side), regularization }
    }

    #[test]
    fn each_size_is_balanced_by_itself() {
        let photos = [of_size(64, 4, 1, false), of_size(96, 4, 2, false)];
        let uses = |of_class: &[Folder]| -> Vec<u64> {
            count(&[&photos, of_class].concat())[2..].iter().map(|uses| uses.iter().sum::<u64>()).collect()
        };
        let expect = |of_class: &[Folder], sums: &[u64]| assert_eq!(uses(of_class), sums);
        expect(&[of_size(64, 10, 1, true), of_size(96, 10, 1, true)], &[4, 8]);
        // What has regularization images of its own size is left alone by those of others.
        expect(&[of_size(64, 10, 1, true)], &[4]);
        expect(&[of_size(64, 10, 1, true), of_size(32, 3, 1, true), of_size(80, 3, 1, true)], &[4, 5, 3]);
        expect(&[of_size(32, 3, 1, true)], &[12]);
        expect(&[of_size(64, 1, 1, true), of_size(96, 1, 1, true), of_size(32, 3, 1, true)], &[4, 8, 0]);
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
