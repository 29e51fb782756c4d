"""Addresses of the data pages and of what their scripts fetch."""

from django.urls import path

from training import clean_views, report_views, upload_views, views

urlpatterns = [
    path("data/", views.datasets, name="datasets"),
    path("data/<uuid:dataset_id>/", views.dataset, name="dataset"),
    path("data/<uuid:dataset_id>/rename/", views.rename, name="dataset_rename"),
    path("data/<uuid:dataset_id>/delete/", views.delete, name="dataset_delete"),
    path("data/<uuid:dataset_id>/files/", upload_views.files, name="dataset_files"),
    path("data/files/<uuid:file_id>/", views.file, name="dataset_file"),
    path("data/files/<uuid:file_id>/content", upload_views.content, name="dataset_file_content"),
    path("data/files/<uuid:file_id>/remove/", upload_views.remove, name="dataset_file_remove"),
    path("data/<uuid:dataset_id>/report/", report_views.report, name="dataset_report"),
    path("data/<uuid:dataset_id>/report/problems.jsonl", report_views.problems_jsonl, name="problems_jsonl"),
    path("data/<uuid:dataset_id>/report/problems.csv", report_views.problems_csv, name="problems_csv"),
    path("data/<uuid:dataset_id>/clean/", clean_views.clean, name="dataset_clean"),
    path("data/<uuid:dataset_id>/versions/", clean_views.versions, name="dataset_versions"),
    path("data/versions/<uuid:version_id>/delete/", clean_views.delete_version, name="version_delete"),
    path("data/versions/<uuid:version_id>/<slug:split>.jsonl", clean_views.download, name="version_split"),
    path("data/work/<uuid:work_id>/", views.work, name="data_work"),
    path("data/work/<uuid:work_id>/cancel/", views.cancel, name="data_work_cancel"),
]
