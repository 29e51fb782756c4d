"""Addresses of the pages of data and of fine-tunes, and of what their scripts fetch."""

from django.urls import path

from training import clean_views, job_views, new_job_views, report_views, search_views, upload_views, views

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
    path("fine-tunes/", job_views.jobs, name="jobs"),
    path("fine-tunes/list", job_views.jobs_list, name="jobs_list"),
    path("fine-tunes/new/", new_job_views.data, name="job_new"),
    path("fine-tunes/new/method/", new_job_views.method, name="job_new_method"),
    path("fine-tunes/new/settings/", new_job_views.settings, name="job_new_settings"),
    path("fine-tunes/searches/<uuid:search_id>/", search_views.search, name="search"),
    path("fine-tunes/searches/<uuid:search_id>/now", search_views.search_now, name="search_now"),
    path("fine-tunes/searches/<uuid:search_id>/cancel/", search_views.cancel, name="search_cancel"),
    path("fine-tunes/searches/<uuid:search_id>/delete/", search_views.delete, name="search_delete"),
    path("fine-tunes/<uuid:job_id>/", job_views.job, name="job"),
    path("fine-tunes/<uuid:job_id>/losses.csv", job_views.losses, name="job_losses"),
    path("fine-tunes/<uuid:job_id>/try/", job_views.try_job, name="job_try"),
    path("fine-tunes/<uuid:job_id>/pause/", job_views.pause, name="job_pause"),
    path("fine-tunes/<uuid:job_id>/resume/", job_views.resume, name="job_resume"),
    path("fine-tunes/<uuid:job_id>/cancel/", job_views.cancel, name="job_cancel"),
    path("fine-tunes/<uuid:job_id>/delete/", job_views.delete, name="job_delete"),
]
