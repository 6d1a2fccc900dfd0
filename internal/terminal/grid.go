package terminal

import (
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

// Grid is a table with a header. Each column is as wide as its widest cell. To fit a terminal, long cells are broken
// into lines, digests are shortened, and then columns are omitted. Output that is not a terminal is never changed.
type Grid struct {
	Head []string
	Rows [][]string
	// Spare has the headers of the columns that may be omitted, in the order in which they are omitted.
	Spare []string
}

// Add appends a row of cells.
func (g *Grid) Add(cells ...string) {
	row := make([]string, len(cells))
	for i, c := range cells {
		row[i] = cell(c)
	}
	g.Rows = append(g.Rows, row)
}

// Widths of the cells of a grid in characters.
const (
	wideCell  = 20 // cells up to this width are broken only as a last resort
	foldedMin = 16
	cutMin    = 12
	leastMin  = 6
	gridLeft  = 2 // before the first column
	gridGap   = 2 // between two columns
)

// gridColumn is a printed column of a grid.
type gridColumn struct {
	at            int // index in header and rows
	width, narrow int // of the widest cell, and the minimum
	digests       bool
}

func (g *Grid) Write(w io.Writer, st Style) error {
	columns, left := g.fit(st.Width)
	if _, err := io.WriteString(w, lines(g.Head, columns, st.Dim)); err != nil {
		return err
	}
	shortened := false
	for _, row := range g.Rows {
		row = slices.Clone(row)
		for _, c := range columns {
			if c.at < len(row) && isDigest(row[c.at]) && visible(row[c.at]) > c.width {
				row[c.at], shortened = cut(row[c.at], c.width), true
			}
		}
		if _, err := io.WriteString(w, lines(row, columns, func(s string) string { return s })); err != nil {
			return err
		}
	}
	var text []string
	if len(left) > 0 {
		text = append(text, "not shown: "+strings.Join(left, ", "))
	}
	if shortened {
		text = append(text, "… means shortened")
	}
	if len(text) == 0 {
		return nil
	}
	return Flow(w, st, st.Dim("  ("+strings.Join(text, "; ")+"; --json shows all)"))
}

// lines returns the text of a row, with as many lines as its highest cell has.
func lines(row []string, columns []gridColumn, paint func(string) string) string {
	var b strings.Builder
	cells := make([][]string, len(columns))
	height := 1
	for i, c := range columns {
		if c.at < len(row) {
			cells[i] = folded(row[c.at], c.width)
			height = max(height, len(cells[i]))
		}
	}
	for n := range height {
		var line strings.Builder
		line.WriteString(" ")
		for i, c := range columns {
			text := ""
			if n < len(cells[i]) {
				text = cells[i][n]
			}
			line.WriteString(" " + paint(text))
			if i < len(columns)-1 {
				line.WriteString(strings.Repeat(" ", c.width-visible(text)+1))
			}
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	return b.String()
}

// fit chooses columns and widths for a terminal; width 0 is no limit. left has the headers of the omitted columns.
func (g *Grid) fit(width int) (columns []gridColumn, left []string) {
	for i, head := range g.Head {
		c := gridColumn{at: i, width: visible(head)}
		for _, word := range strings.Fields(head) {
			c.narrow = max(c.narrow, visible(word))
		}
		for _, row := range g.Rows {
			if i < len(row) {
				c.width = max(c.width, visible(row[i]))
				c.narrow = max(c.narrow, narrowest(row[i]))
				c.digests = c.digests || isDigest(row[i])
			}
		}
		columns = append(columns, c)
	}
	if width == 0 {
		return columns, nil
	}
	for _, head := range g.Spare {
		if total(columns, func(c gridColumn) int { return c.narrow }) <= width {
			break
		}
		columns = slices.DeleteFunc(columns, func(c gridColumn) bool { return g.Head[c.at] == head })
		left = append(left, head)
	}
	for least := foldedMin; total(columns, func(c gridColumn) int { return c.narrow }) > width &&
		least >= leastMin; least-- {
		for i := range columns {
			columns[i].narrow = min(columns[i].narrow, least)
		}
	}
	shrink(columns, width)
	return columns, left
}

func narrowest(cell string) int {
	switch n := visible(cell); {
	case n <= wideCell:
		return n
	case isDigest(cell):
		return cutMin
	}
	return foldedMin
}

// shrink reduces the width of columns, those with digests first and then the widest ones, until the row fits.
func shrink(columns []gridColumn, width int) {
	for total(columns, func(c gridColumn) int { return c.width }) > width {
		widest := -1
		for i, c := range columns {
			if c.width > c.narrow && (widest < 0 || c.weight() > columns[widest].weight()) {
				widest = i
			}
		}
		if widest < 0 {
			return
		}
		columns[widest].width--
	}
}

func (c gridColumn) weight() int {
	if c.digests {
		return c.width + 1<<20
	}
	return c.width
}

func total(columns []gridColumn, of func(gridColumn) int) int {
	n := gridLeft + gridGap*(len(columns)-1)
	for _, c := range columns {
		n += of(c)
	}
	return n
}

// visible returns the width of a text without its terminal attributes.
func visible(s string) int {
	n := 0
	for s != "" {
		if strings.HasPrefix(s, "\x1b[") {
			if end := strings.IndexByte(s, 'm'); end >= 0 {
				s = s[end+1:]
				continue
			}
		}
		_, size := utf8.DecodeRuneInString(s)
		s, n = s[size:], n+1
	}
	return n
}
