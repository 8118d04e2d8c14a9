//! Paged counts: counts by bucket, in pages that are allocated when they are first used.
//!
//! A histogram has 17,408 buckets. With pages of 64, a histogram with few requests takes a few
//! pages of 520 bytes instead of 136 KiB.
//!
//! **Invariant:** the count of a bucket is above 0 only if the bucket's bit in `touched` is set.
//! **Not here:** the meaning of the buckets (`histogram`).

/// Number of buckets in a page, which takes 520 bytes.
const PAGE: usize = 64;
const _: () = assert!(PAGE == u64::BITS as usize, "each bucket of a page has its bit");

/// Counts by bucket.
#[derive(Clone, Debug, Default)]
pub(crate) struct PagedCounts {
    /// Pages up to the page of the highest bucket that was ever used; `None` for a page that was
    /// never used.
    pages: Vec<Option<Box<Page>>>,
}

/// Counts of adjacent buckets. Few buckets are used in one second; the bits let packing skip all
/// the others.
#[derive(Clone, Debug)]
struct Page {
    /// One bit for each bucket of the page, set if the bucket is used.
    touched: u64,
    counts: [u64; PAGE],
}

impl Page {
    const EMPTY: Self = Self { touched: 0, counts: [0; PAGE] };

    fn add(&mut self, within: usize, count: u64) {
        self.touched |= 1 << within;
        self.counts[within] += count;
    }

    /// Returns each used bucket, in increasing order, and its count.
    fn used(&self) -> impl Iterator<Item = (usize, u64)> + Clone + '_ {
        let mut left = self.touched;
        std::iter::from_fn(move || {
            let within = left.trailing_zeros() as usize;
            let count = self.counts.get(within)?;
            left &= left - 1;
            Some((within, *count))
        })
    }

    fn reset(&mut self) {
        while self.touched != 0 {
            self.counts[self.touched.trailing_zeros() as usize] = 0;
            self.touched &= self.touched - 1;
        }
    }
}

impl PagedCounts {
    /// Adds to the count of a bucket, and returns the number of pages allocated.
    pub(super) fn add(&mut self, bucket: usize, count: u64) -> usize {
        let (page, within) = (bucket / PAGE, bucket % PAGE);
        if let Some(Some(page)) = self.pages.get_mut(page) {
            page.add(within, count);
            return 0;
        }
        self.add_to_new_page(page, within, count)
    }

    #[cold]
    fn add_to_new_page(&mut self, page: usize, within: usize, count: u64) -> usize {
        if self.pages.len() <= page {
            self.pages.resize_with(page + 1, || None);
        }
        self.pages[page].insert(Box::new(Page::EMPTY)).add(within, count);
        1
    }

    /// Returns the highest used bucket.
    pub(super) fn highest(&self) -> Option<usize> {
        let pages = self.pages.iter().enumerate().rev();
        pages.filter_map(|(number, page)| Some((number, page.as_ref()?))).find_map(
            |(number, page)| {
                let within = page.touched.checked_ilog2()? as usize;
                Some(number * PAGE + within)
            },
        )
    }

    /// Returns each used bucket, in increasing order, and its count.
    pub(crate) fn used(&self) -> impl Iterator<Item = (usize, u64)> + Clone + '_ {
        let pages = self.pages.iter().enumerate();
        pages.filter_map(|(number, page)| Some((number, page.as_ref()?))).flat_map(
            |(number, page)| {
                page.used().map(move |(within, count)| (number * PAGE + within, count))
            },
        )
    }

    /// Resets the counts, and keeps the memory.
    pub(super) fn reset(&mut self) {
        self.pages.iter_mut().flatten().for_each(|page| page.reset());
    }

    /// Returns the number of bytes that the counts take.
    pub(crate) fn bytes(&self) -> usize {
        let pages = self.pages.iter().flatten().count() * size_of::<Page>();
        pages + self.pages.capacity() * size_of::<Option<Box<Page>>>()
    }
}
