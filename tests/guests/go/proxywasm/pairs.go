package proxywasm

import "encoding/binary"

// Pair is the name and the value of a header.
type Pair struct{ Name, Value string }

// serialize makes the form in which lists cross the boundary: the number of pairs, all sizes, then each name and value
// with a NUL behind it.
func serialize(pairs []Pair) string {
	text := binary.LittleEndian.AppendUint32(nil, uint32(len(pairs)))
	for _, pair := range pairs {
		text = binary.LittleEndian.AppendUint32(text, uint32(len(pair.Name)))
		text = binary.LittleEndian.AppendUint32(text, uint32(len(pair.Value)))
	}
	for _, pair := range pairs {
		text = append(append(text, pair.Name...), 0)
		text = append(append(text, pair.Value...), 0)
	}
	return string(text)
}

func parsePairs(text string) []Pair {
	if text == "" {
		return nil
	}
	number := func(at int) int { return int(binary.LittleEndian.Uint32([]byte(text[at:]))) }
	pairs := make([]Pair, number(0))
	at := 4 + 8*len(pairs)
	for i := range pairs {
		name, value := number(4+8*i), number(8+8*i)
		pairs[i] = Pair{text[at : at+name], text[at+name+1 : at+name+1+value]}
		at += name + value + 2
	}
	return pairs
}
