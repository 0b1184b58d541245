"""The report: every table and figure, ours beside the published, as pages and for papers.

    measured.py            what a method reached, and the small CSV files that keep it
    stored_runs.py         what a tracking store has, as such results, and what is not whole
    parts.py               what a report is made of: sections, tables, charts, pictures

    overview.py            what was run and what is missing
    paper_sections.py      the tables and figures of the paper
    settings_section.py    how ROCAUC depends on a setting, and on speed
    difference_section.py  which differences are real
    score_section.py       ROC curves, histograms
    neighbour_section.py   the worst errors as pictures; copies of test images in the training set
    building.py            all sections, from a store or from files

    html_page.py           one HTML file, with page.html, page.css and page.js; vega.py: its charts
    markdown_text.py, latex_text.py, table_files.py, plotted.py    for papers
    printed.py             the tables of README and docs/results.md, made of results/*.csv

The first group knows the store and no format; the last knows formats and no store.
"""
