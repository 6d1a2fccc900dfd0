package backup

// Format is the version of archives that this package writes, and the newest that it reads.
const Format = format
