"""Addresses of set-up, settings, workspaces and invitations. Login and its kin are allauth's, under /accounts/."""

from django.urls import path
from django.views.i18n import set_language

from webapp.accounts import key_views, views, workspace_views
from webapp.accounts.passkey_forms import refuse_malformed_credentials

# Here and not when the app is ready: whoever serves no pages takes no passkeys.
refuse_malformed_credentials()

urlpatterns = [
    path("language/", set_language, name="set_language"),
    path("setup/", views.setup, name="setup"),
    path("settings/", views.settings_page, name="profile"),
    path("settings/delete/", views.delete_account, name="account_delete"),
    path("settings/workspace/", workspace_views.workspace_settings, name="workspace_settings"),
    path("settings/workspace/audit/", workspace_views.audit, name="workspace_audit"),
    path("settings/workspace/keys/", key_views.keys, name="keys"),
    path("workspaces/new/", workspace_views.create, name="workspace_new"),
    path("workspaces/switch/", workspace_views.switch, name="workspace_switch"),
    path("workspaces/<uuid:workspace_id>/rename/", workspace_views.rename, name="workspace_rename"),
    path("workspaces/<uuid:workspace_id>/leave/", workspace_views.leave, name="workspace_leave"),
    path(
        "workspaces/<uuid:workspace_id>/members/<uuid:user_id>/role/",
        workspace_views.change_role,
        name="member_role",
    ),
    path(
        "workspaces/<uuid:workspace_id>/members/<uuid:user_id>/remove/",
        workspace_views.remove_member,
        name="member_remove",
    ),
    path("workspaces/<uuid:workspace_id>/invitations/", workspace_views.invite, name="invite"),
    path(
        "workspaces/<uuid:workspace_id>/invitations/<uuid:invitation_id>/revoke/",
        workspace_views.revoke_invitation,
        name="invitation_revoke",
    ),
    path("workspaces/<uuid:workspace_id>/keys/", key_views.create, name="key_create"),
    path("workspaces/<uuid:workspace_id>/keys/<uuid:key_id>/revoke/", key_views.revoke, name="key_revoke"),
    path("invite/<str:token>/", views.invitation, name="invitation"),
]
