"""What nbval must not compare: pixels and markup (the numbers stand in the text outputs)."""


def pytest_collectstart(collector):
    if hasattr(collector, "skip_compare"):
        collector.skip_compare += ("stderr", "text/html", "image/svg+xml")
