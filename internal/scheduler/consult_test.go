package scheduler

import "testing"

func TestEnoughNodes(t *testing.T) {
	for _, test := range []struct {
		percentage  int32
		nodes, want int
	}{
		{0, 0, 0}, {0, 10, 10}, {0, 100, 100}, {0, 150, 100}, {0, 1000, 420}, {0, 6000, 300}, {0, 5000, 500},
		{40, 10, 10}, {40, 1000, 400}, {40, 6000, 2400}, {1, 5000, 100}, {100, 5000, 5000},
	} {
		if got := enoughNodes(test.percentage, test.nodes); got != test.want {
			t.Errorf("%d %% of %d: %d, want %d", test.percentage, test.nodes, got, test.want)
		}
	}
}
