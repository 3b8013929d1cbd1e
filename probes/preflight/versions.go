package preflight

// tested are the Kubernetes versions that each Calico minor version is tested
// with: "Kubernetes requirements" of its system requirements page.
var tested = map[int][2]int{
	27: {27, 29},
	28: {27, 30},
	29: {29, 32},
	30: {31, 35},
	31: {32, 35},
	32: {34, 36},
}

const testedList = "Calico 3.27: 1.27 to 1.29; 3.28: 1.27 to 1.30; 3.29: 1.29 to 1.32; 3.30: 1.31 to 1.35; 3.31: 1.32 to 1.35; 3.32: 1.34 to 1.36"
