// Package spelling measures how similar two words are, for messages that suggest a correction.
package spelling

// maxLength bounds the work for one comparison.
const maxLength = 80

// Distance returns how many bytes must be inserted, deleted, replaced, or swapped with their neighbour to make b out of
// a (the optimal string alignment distance). Words of more than 80 bytes have the distance of their longer length.
func Distance(a, b string) int {
	if len(a) > maxLength || len(b) > maxLength {
		return max(len(a), len(b))
	}
	var before, prev []int
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		before, prev, row = prev, row, make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			replaced := prev[j-1]
			if a[i-1] != b[j-1] {
				replaced++
			}
			row[j] = min(prev[j]+1, row[j-1]+1, replaced)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
	}
	return row[len(b)]
}
