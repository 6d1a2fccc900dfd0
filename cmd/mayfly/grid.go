package main

import (
	"io"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"
)

// grid is a table with a head, its columns as wide as their widest cell.
type grid struct {
	head []string
	rows [][]string
}

func (g *grid) add(cells ...string) { g.rows = append(g.rows, cells) }

func (g *grid) write(w io.Writer, st style) error {
	width := make([]int, len(g.head))
	for _, row := range append([][]string{g.head}, g.rows...) {
		for i, cell := range row {
			width[i] = max(width[i], visible(cell))
		}
	}
	line := func(row []string, paint func(string) string) error {
		var b strings.Builder
		b.WriteString(" ")
		for i, cell := range row {
			b.WriteString(" " + paint(cell))
			if i < len(row)-1 {
				b.WriteString(strings.Repeat(" ", width[i]-visible(cell)+1))
			}
		}
		_, err := io.WriteString(w, strings.TrimRight(b.String(), " ")+"\n")
		return err
	}
	if err := line(g.head, st.dim); err != nil {
		return err
	}
	for _, row := range g.rows {
		if err := line(row, func(s string) string { return s }); err != nil {
			return err
		}
	}
	return nil
}

// visible is the width of a text without terminal attributes.
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

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
