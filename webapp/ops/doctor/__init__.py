"""`manage.py doctor`: looks at everything a site needs and says what to do. Changes nothing.

Each module looks at one subject and yields findings; none needs another subject to be well.
"""
