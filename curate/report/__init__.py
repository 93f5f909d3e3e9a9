"""Reports on a finished run: tables for the terminal and self-contained HTML pages. Reads decisions, changes nothing."""

from curate.report.attrition import Attrition, attrition, attrition_table
from curate.report.page import report_page, write_report

__all__ = ["Attrition", "attrition", "attrition_table", "report_page", "write_report"]
