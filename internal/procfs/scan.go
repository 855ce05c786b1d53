package procfs

import (
	"bytes"
	"errors"
	"math"
)

// What can be wrong with the bytes of a file.
var (
	ErrTruncated = errors.New("file is cut short")
	ErrSyntax    = errors.New("not a number")
	ErrRange     = errors.New("number does not fit into 64 bits")
)

// Line cuts the first line off b and returns it without its newline. The kernel ends every line, so ok is false
// when none is left or the last one is cut short; rest then holds what was left of b.
func Line(b []byte) (line, rest []byte, ok bool) {
	line, rest, ok = bytes.Cut(b, []byte{'\n'})
	if !ok {
		return nil, b, false
	}
	return line, rest, true
}

// Field cuts the first field off a line: what stands between blanks or tabs. At the end of the line it is empty.
func Field(line []byte) (field, rest []byte) {
	i := skipBlanks(line, 0)
	end := i
	for end < len(line) && !blank(line[end]) {
		end++
	}
	return line[i:end], line[end:]
}

// Uint reads a field that is one whole decimal number.
func Uint(field []byte) (uint64, error) {
	v, n, err := digits(field, 0)
	if err == nil && n < len(field) {
		err = ErrSyntax
	}
	return v, err
}

// Uints reads the next fields of a line into dst, until dst is full or the line ends, and returns how many it read
// and the rest of the line. A field that is no whole decimal number, or too large, is an error.
func Uints(line []byte, dst []uint64) (n int, rest []byte, err error) {
	const maxDigits = 19 // as many always fit
	i := 0
	for n < len(dst) {
		if i = skipBlanks(line, i); i == len(line) {
			break
		}
		// This loop is most of the work of a tick, so it leaves all doubts to digits.
		start, v := i, uint64(0)
		for i < len(line) {
			d := line[i] - '0'
			if d > 9 {
				break
			}
			v = v*10 + uint64(d)
			i++
		}
		if i == start || i-start > maxDigits {
			if v, i, err = digits(line, start); err != nil {
				return n, line[start:], err
			}
		}
		if i < len(line) && !blank(line[i]) {
			return n, line[start:], ErrSyntax
		}
		dst[n] = v
		n++
	}
	return n, line[i:], nil
}

// Decimal reads a field like 0.31, as the kernel prints fixed-point numbers: digits, perhaps a point and more
// digits; no sign, no exponent.
func Decimal(field []byte) (float64, error) {
	whole, n, err := digits(field, 0)
	if err != nil || n == len(field) {
		return float64(whole), err
	}
	if field[n] != '.' {
		return 0, ErrSyntax
	}
	fraction, end, err := digits(field, n+1)
	if err == nil && end < len(field) {
		err = ErrSyntax
	}
	return float64(whole) + float64(fraction)/math.Pow10(end-n-1), err
}

func blank(c byte) bool { return c == ' ' || c == '\t' }

func skipBlanks(b []byte, i int) int {
	for i < len(b) && blank(b[i]) {
		i++
	}
	return i
}

// digits reads the decimal digits of b from i on, at least one, and returns their value and where they end.
func digits(b []byte, i int) (v uint64, end int, err error) {
	const safe = (math.MaxUint64 - 9) / 10 // up to here one more digit always fits
	end = i
	for end < len(b) {
		d := b[end] - '0'
		if d > 9 {
			break
		}
		if v > safe && (v > math.MaxUint64/10 || v*10 > math.MaxUint64-uint64(d)) {
			return 0, end, ErrRange
		}
		v = v*10 + uint64(d)
		end++
	}
	if end == i {
		return 0, end, ErrSyntax
	}
	return v, end, nil
}
