"""The tests, in folders like the house; what they share is in `support`, whose asserts say as much as a test's own."""

import pytest

pytest.register_assert_rewrite("tests.support")
