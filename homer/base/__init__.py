"""What every folder stands on: arguments checked, files written whole, folders that are ours, and names that moved.

Needs nothing but `errors`. Read `arguments` first.
"""
