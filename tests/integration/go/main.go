// Verifies an audit log with Go's own packages (golang.org/x/mod/sumdb: note, tlog), the ones that guard Go's
// module checksums. No code of the connector is in here, and no hashing of our own.
//
//	stranger log FOLDER VKEY                             an exported log, every tile and entry
//	stranger proof ENTRY PROOF VKEY                      one entry and its tlog-proof
//	stranger consistency OLD NEW PROOF VKEY              two checkpoints and the proof between them
package main

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const height = 8

func main() {
	said, err := run(os.Args[1:])
	if err != nil {
		fmt.Println("WRONG:", err)
		os.Exit(1)
	}
	fmt.Println("OK:", said)
}

func run(args []string) (string, error) {
	switch {
	case len(args) == 3 && args[0] == "log":
		return verifyLog(args[1], args[2])
	case len(args) == 4 && args[0] == "proof":
		return verifyProof(args[1], args[2], args[3])
	case len(args) == 5 && args[0] == "consistency":
		return verifyConsistency(args[1], args[2], args[3], args[4])
	}
	return "", errors.New("stranger log FOLDER VKEY | proof ENTRY PROOF VKEY | consistency OLD NEW PROOF VKEY")
}

// openCheckpoint gives the tree that a signed checkpoint names.
func openCheckpoint(signed []byte, vkey string) (tlog.Tree, error) {
	verifier, err := note.NewVerifier(vkey)
	if err != nil {
		return tlog.Tree{}, err
	}
	opened, err := note.Open(signed, note.VerifierList(verifier))
	if err != nil {
		return tlog.Tree{}, err
	}
	lines := strings.Split(opened.Text, "\n")
	if len(lines) < 4 || lines[0] != verifier.Name() {
		return tlog.Tree{}, errors.New("not a checkpoint of this log")
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil {
		return tlog.Tree{}, err
	}
	root, err := tlog.ParseHash(lines[2])
	return tlog.Tree{N: size, Hash: root}, err
}

// folder reads the tiles of an exported log (C2SP tlog-tiles).
type folder string

func (f folder) Height() int { return height }

func (f folder) SaveTiles([]tlog.Tile, [][]byte) {}

func (f folder) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	var found [][]byte
	for _, tile := range tiles {
		data, err := os.ReadFile(f.path(strconv.Itoa(tile.L), tile.N, tile.W))
		if err != nil {
			return nil, err
		}
		found = append(found, data)
	}
	return found, nil
}

func (f folder) path(level string, index int64, width int) string {
	parts := []string{fmt.Sprintf("%03d", index%1000)}
	for index /= 1000; index > 0; index /= 1000 {
		parts = append([]string{fmt.Sprintf("x%03d", index%1000)}, parts...)
	}
	path := filepath.Join(append([]string{string(f), "tile", level}, parts...)...)
	if width < 1<<height {
		path = filepath.Join(path+".p", strconv.Itoa(width))
	}
	return path
}

func verifyLog(name, vkey string) (string, error) {
	signed, err := os.ReadFile(filepath.Join(name, "checkpoint"))
	if err != nil {
		return "", err
	}
	tree, err := openCheckpoint(signed, vkey)
	if err != nil {
		return "", err
	}
	// The reader checks each tile against the signed root before it gives a hash out.
	hashes := tlog.TileHashReader(tree, folder(name))
	root, err := tlog.TreeHash(tree.N, hashes)
	if err != nil {
		return "", err
	}
	if root != tree.Hash {
		return "", errors.New("the tiles do not give the signed root")
	}
	if err := verifyEntries(folder(name), tree, hashes); err != nil {
		return "", err
	}
	old, err := filepath.Glob(filepath.Join(name, "checkpoints", "*"))
	if err != nil {
		return "", err
	}
	for _, path := range old {
		if err := verifyOlder(path, vkey, tree, hashes); err != nil {
			return "", fmt.Errorf("%s: %w", filepath.Base(path), err)
		}
	}
	return fmt.Sprintf("%d entries, %d checkpoints", tree.N, len(old)), nil
}

func verifyEntries(f folder, tree tlog.Tree, hashes tlog.HashReader) error {
	for start := int64(0); start < tree.N; start += 1 << height {
		width := 1 << height
		if tree.N-start < 1<<height {
			width = int(tree.N - start)
		}
		data, err := os.ReadFile(f.path("entries", start>>height, width))
		if err != nil {
			return err
		}
		for place := start; place < start+int64(width); place++ {
			if len(data) < 2 || len(data) < 2+int(binary.BigEndian.Uint16(data)) {
				return fmt.Errorf("the bundle of entry %d is too short", place)
			}
			end := 2 + int(binary.BigEndian.Uint16(data))
			leaf, err := hashes.ReadHashes([]int64{tlog.StoredHashIndex(0, place)})
			if err != nil {
				return err
			}
			if tlog.RecordHash(data[2:end]) != leaf[0] {
				return fmt.Errorf("entry %d is not the one in the tree", place)
			}
			data = data[end:]
		}
		if len(data) > 0 {
			return fmt.Errorf("the bundle at entry %d is too long", start)
		}
	}
	return nil
}

func verifyOlder(path, vkey string, tree tlog.Tree, hashes tlog.HashReader) error {
	signed, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	old, err := openCheckpoint(signed, vkey)
	if err != nil {
		return err
	}
	proof, err := tlog.ProveTree(tree.N, old.N, hashes)
	if err != nil {
		return err
	}
	return tlog.CheckTree(proof, tree.N, tree.Hash, old.N, old.Hash)
}

func verifyProof(entryPath, proofPath, vkey string) (string, error) {
	entry, err := os.ReadFile(entryPath)
	if err != nil {
		return "", err
	}
	text, err := os.ReadFile(proofPath)
	if err != nil {
		return "", err
	}
	head, signed, found := strings.Cut(string(text), "\n\n")
	lines := strings.Split(head, "\n")
	if !found || len(lines) < 2 || lines[0] != "c2sp.org/tlog-proof@v1" {
		return "", errors.New("not a tlog-proof")
	}
	index, err := strconv.ParseInt(strings.TrimPrefix(lines[1], "index "), 10, 64)
	if err != nil {
		return "", err
	}
	tree, err := openCheckpoint([]byte(signed), vkey)
	if err != nil {
		return "", err
	}
	proof, err := readHashes(lines[2:])
	if err != nil {
		return "", err
	}
	if err := tlog.CheckRecord(tlog.RecordProof(proof), tree.N, tree.Hash, index, tlog.RecordHash(entry)); err != nil {
		return "", err
	}
	return fmt.Sprintf("entry %d of %d", index, tree.N), nil
}

func verifyConsistency(oldPath, newPath, proofPath, vkey string) (string, error) {
	var trees []tlog.Tree
	for _, path := range []string{oldPath, newPath} {
		signed, err := os.ReadFile(path)
		if err != nil {
			return "", err
		}
		tree, err := openCheckpoint(signed, vkey)
		if err != nil {
			return "", err
		}
		trees = append(trees, tree)
	}
	text, err := os.ReadFile(proofPath)
	if err != nil {
		return "", err
	}
	proof, err := readHashes(strings.Fields(string(text)))
	if err != nil {
		return "", err
	}
	if err := tlog.CheckTree(tlog.TreeProof(proof), trees[1].N, trees[1].Hash, trees[0].N, trees[0].Hash); err != nil {
		return "", err
	}
	return fmt.Sprintf("%d entries are the beginning of %d", trees[0].N, trees[1].N), nil
}

func readHashes(lines []string) ([]tlog.Hash, error) {
	var found []tlog.Hash
	for _, line := range lines {
		data, err := base64.StdEncoding.DecodeString(line)
		if err != nil || len(data) != tlog.HashSize {
			return nil, errors.New("not a hash: " + line)
		}
		var hash tlog.Hash
		copy(hash[:], data)
		found = append(found, hash)
	}
	return found, nil
}
