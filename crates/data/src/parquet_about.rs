/// What a Parquet file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ParquetAbout {
    /// Rows.
    pub rows: u64,
    /// Groups of rows that lie together.
    pub groups: usize,
    /// Names of the columns; of very many the first, and those that are read.
    pub columns: Vec<String>,
    /// How they are packed: `snappy`, `zstd`, ….
    pub compression: Vec<String>,
    /// The program that wrote it, as it says.
    pub writer: Option<String>,
}
