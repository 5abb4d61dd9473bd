"""The report: a recorded dry run gives the tables and the picture that stand beside it, and is never kept.

    python3 -m unittest discover --start-directory tools/gpu

`fixtures/dry.json` is what `check.sh --dry-run --device cpu` wrote. Where a table is meant to change:
`python3 tools/gpu/report.py tools/gpu/fixtures/dry.json --svg tools/gpu/fixtures/dry.svg > tools/gpu/fixtures/dry.md`
"""

import copy
import json
import pathlib
import sys
import tempfile
import unittest
import xml.etree.ElementTree

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import report

FIXTURES = HERE / "fixtures"


def dry():
    return json.loads((FIXTURES / "dry.json").read_text())


def as_a_gpu(recorded):
    """The dry run as if a card had done it, to test what only that allows."""
    gpu = copy.deepcopy(recorded)
    gpu["dry_run"], gpu["device"] = False, "cuda:0"
    survey = gpu["stages"]["devices"]["data"]["survey"]["devices"]
    survey.insert(0, {**survey[0], "id": "cuda:0", "name": "NVIDIA Example 1 <80GB>"})
    return gpu


class Tables(unittest.TestCase):
    def test_the_recorded_run_gives_its_tables(self):
        self.assertEqual(report.tables(dry()) + "\n", (FIXTURES / "dry.md").read_text())
        self.assertIn("DRY RUN", report.tables(dry()))

    def test_the_recorded_run_gives_its_picture(self):
        picture = report.svg(dry())
        self.assertEqual(picture, (FIXTURES / "dry.svg").read_text())
        root = xml.etree.ElementTree.fromstring(picture)
        lines = root.findall("{http://www.w3.org/2000/svg}polyline")
        self.assertEqual(len(lines), len(dry()["stages"]["offload"]["data"]["distorch"]))

    def test_ratios_are_our_time_in_parts_of_pytorchs(self):
        recorded = dry()
        shape = {"kind": "conv", "dtype": "f16", "flops": 3 * 10**12, "first_seconds": 1.5}
        recorded["stages"]["operators"]["data"] = {
            "distorch": [
                {"name": "a", **shape, "min_seconds": 0.006},
                {"name": "b", **shape, "min_seconds": 0.003},
                {"name": "c", **shape, "min_seconds": 1.0},
            ],
            # `c` has no counterpart in this dtype.
            "torch": [
                {"name": "a", "dtype": "f16", "min_seconds": 0.003},
                {"name": "b", "dtype": "f16", "min_seconds": 0.006},
                {"name": "c", "dtype": "f32", "min_seconds": 0.006},
            ],
        }
        text = report.operators(recorded)
        self.assertIn("| a | f16 | 6.000 ms | 3.000 ms | **2.00** | 500.0 | 1.50 s |", text)
        self.assertIn("| b | f16 | 3.000 ms | 6.000 ms | 0.50 | 1000.0 | 1.50 s |", text)
        self.assertIn("| c | f16 | 1000.000 ms |  |  | 3.0 | 1.50 s |", text)
        # The geometric mean of 2 and a half is 1.
        self.assertIn("| conv | f16 | 2 | 1.00 | 2.00 |", text)

    def test_the_largest_error_is_the_one_nearest_its_tolerance(self):
        recorded = dry()
        error = {"group": "kernels", "dtype": "f32", "within": True}
        recorded["stages"]["correctness"]["data"]["errors"] = [
            {**error, "what": "wide", "error": 2e-3, "tolerance": 1e-1},
            {**error, "what": "near", "error": 9e-4, "tolerance": 1e-3},
        ]
        self.assertIn("| kernels | f32 | 9.0e-04 | 1.0e-03 | near |", report.errors(recorded))

    def test_memory_stands_beside_the_plan(self):
        recorded = dry()
        gib = 1 << 30
        stage = {"stage": "step", "median_seconds": 0.5}
        recorded["stages"]["models"]["data"] = {
            "idle_bytes": gib // 2,
            "distorch": [{
                "which": "sdxl", "dtype": "f16", "width": 1024, "load_seconds": 2.0, "stages": [stage],
                "nvml_peak_bytes": 9 * gib, "planned_bytes": 10 * gib,
            }],
            "torch": [{"which": "sdxl", "dtype": "f16", "stages": [
                {"stage": "step", "median_seconds": 0.25}, {"stage": "memory", "peak_bytes": 12 * gib},
            ]}],
        }
        text = report.models(recorded)
        self.assertIn("| sdxl, 1024², f16 | a step | 0.500 s | 0.250 s | 2.00 |", text)
        self.assertIn("| sdxl, 1024², f16 | peak memory | 9.00 GiB | 12.00 GiB | 0.75 |", text)
        self.assertIn("| sdxl, 1024², f16 | planned | 10.00 GiB |", text)

    def test_diffusers_stands_beside_the_sweep(self):
        recorded = dry()
        point = {
            "layout": "distorch2", "share_percent": 50, "bandwidth": 25_000_000_000, "step_seconds": 0.21,
            "roofline_seconds": 0.2, "ratio": 1.05,
        }
        recorded["stages"]["offload"]["data"] = {
            "distorch": [{"pin": True, "points": [point]}],
            "diffusers": [{"share_percent": 50, "min_seconds": 0.5, "elsewhere_bytes": 51, "bytes": 100}],
        }
        row = "| distorch2 | pinned | 50 % | 25.0 GB/s | 0.210 s | 0.200 s | 1.050 | 0.500 s with 51% |"
        self.assertIn(row, report.offload(recorded))
        # In the picture both are in parts of the same roofline.
        points = [line.get("points") for line in xml.etree.ElementTree.fromstring(report.svg(recorded)).iter() if line.get("points")]
        self.assertEqual(len(points), 2)
        heights = [float(at.split(",")[1]) for at in points]
        zero = report.HEIGHT - report.BOTTOM
        self.assertAlmostEqual((zero - heights[1]) / (zero - heights[0]), 2.5 / 1.05, places=2)

    def test_what_failed_and_what_was_cut_off_is_told(self):
        recorded = dry()
        recorded["stages"]["lora"].update(status="timed out", reason="it took longer than 20 s")
        recorded["stages"]["pictures"]["checks"][1].update(ok=False, detail="other bits\nmore")
        text = report.tables(recorded)
        self.assertIn("| lora | cut off |", text)
        self.assertIn(f"- pictures: {recorded['stages']['pictures']['checks'][1]['name']}: other bits\n", text + "\n")

    def test_a_run_that_was_killed_at_once_has_tables_too(self):
        killed = {**dry(), "complete": False, "stages": {}}
        text = report.tables(killed)
        self.assertIn("The run was cut short.", text)
        self.assertEqual(report.svg(killed), "")


class Keeping(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.docs = pathlib.Path(folder.name)
        self.page = self.docs / "gpu.md"
        self.page.write_text(f"before\n{report.BEGIN}\nyesterday's\n{report.END}\nafter\n")

    def test_a_dry_run_is_refused(self):
        with self.assertRaisesRegex(report.NotAGpu, "dry run"):
            report.keep(dry(), self.docs)
        self.assertIn("yesterday's", self.page.read_text())
        self.assertEqual(sorted(path.name for path in self.docs.iterdir()), ["gpu.md"])

    def test_what_ran_on_no_gpu_is_refused(self):
        for device in ("cpu", "vulkan:0"):
            with self.assertRaisesRegex(report.NotAGpu, "no GPU"):
                report.keep({**dry(), "dry_run": False, "device": device}, self.docs)
        with self.assertRaisesRegex(report.NotAGpu, "not found"):
            report.keep({**dry(), "dry_run": False, "device": "cuda:0"}, self.docs)

    def test_a_dry_run_that_came_into_the_folder_is_refused_too(self):
        (self.docs / "gpu").mkdir()
        (self.docs / "gpu" / "smuggled.json").write_text(json.dumps(dry()))
        with self.assertRaisesRegex(report.NotAGpu, "dry run"):
            report.keep(as_a_gpu(dry()), self.docs)
        self.assertIn("yesterday's", self.page.read_text())
        self.assertEqual(len(list((self.docs / "gpu").iterdir())), 1)

    def test_a_card_gets_its_json_its_picture_and_its_tables(self):
        kept = report.keep(as_a_gpu(dry()), self.docs)
        self.assertEqual(kept.name, "nvidia-example-1-80gb.json")
        self.assertTrue(kept.with_suffix(".svg").is_file())
        first = self.page.read_text()
        self.assertTrue(first.startswith(f"before\n{report.BEGIN}\n\n### NVIDIA Example 1"))
        self.assertTrue(first.endswith(f"{report.END}\nafter\n"))
        self.assertNotIn("yesterday's", first)
        self.assertIn("(gpu/nvidia-example-1-80gb.svg)", first)
        report.keep(as_a_gpu(dry()), self.docs)
        self.assertEqual(self.page.read_text(), first, "once more changes nothing")

    def test_the_page_has_a_place_for_the_tables(self):
        page = (report.DOCS / "gpu.md").read_text()
        self.assertEqual((page.count(report.BEGIN), page.count(report.END)), (1, 1))


if __name__ == "__main__":
    unittest.main()
