"""The forms of people and workspaces. Each checks its own fields; what may be done is decided in services."""

from __future__ import annotations

from typing import Any

from allauth.account import forms as allauth_forms
from allauth.account.adapter import get_adapter
from allauth.account.internal.flows.email_verification import send_verification_email_to_address
from allauth.account.models import EmailAddress
from allauth.core import context
from django import forms
from django.contrib.auth import password_validation
from django.db import IntegrityError, transaction
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from webapp.accounts.invitations import check_invited
from webapp.accounts.joining import pending_invitation, settle
from webapp.accounts.models import Membership, Role, User
from webapp.accounts.services import RANK, clean_workspace_name
from webapp.accounts.setup_code import is_setup_code
from webapp.core.errors import UserError


def clean_person_name(name: str) -> str:
    """One line without control characters: a name is shown to others, in lists and in mail."""
    name = " ".join(name.split())
    if not name.isprintable():
        raise forms.ValidationError(_("A name cannot contain control characters."))
    return name


def clean_named_workspace(name: str) -> str:
    try:
        return clean_workspace_name(name)
    except UserError as error:
        raise forms.ValidationError(error.message)


class NameField(forms.CharField):
    def __init__(self, **kwargs: Any) -> None:
        widget = forms.TextInput(attrs={"autocomplete": "name"})
        super().__init__(label=gettext_lazy("Your name"), max_length=80, widget=widget, **kwargs)

    def clean(self, value: Any) -> str:
        return clean_person_name(super().clean(value))


class SignupForm(allauth_forms.SignupForm):
    name = NameField(required=False, help_text=gettext_lazy("What others in your workspace see."))
    field_order = ("name", "email", "password1")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["password1"].help_text = _("At least 8 characters.")

    def clean_email(self) -> str:
        email: str = super().clean_email()
        request = context.request
        invitation = pending_invitation(request)
        if invitation is not None:
            try:
                check_invited(invitation, email)
            except UserError:
                raise forms.ValidationError(
                    _("The invitation is for another address. Sign up with that one.")
                )
        return email

    def save(self, request: HttpRequest) -> User:
        user: User = super().save(request)
        settle(user=user, request=request)
        return user

    def custom_signup(self, request: HttpRequest, user: User) -> None:
        super().custom_signup(request, user)
        user.name = self.cleaned_data["name"]
        user.save(update_fields=["name"])

    def try_save(self, request: HttpRequest) -> tuple[User | None, HttpResponse | None]:
        try:
            with transaction.atomic():
                outcome: tuple[User | None, HttpResponse | None] = super().try_save(request)
            return outcome
        except IntegrityError:
            # The same address signed up while this form was being checked: answer as if it had been there before.
            if not User.objects.filter(email__iexact=self.cleaned_data["email"]).exists():
                raise
        self.validate_unique_email_again()
        outcome = super().try_save(request)
        return outcome

    def validate_unique_email_again(self) -> None:
        try:
            self.validate_unique_email(self.cleaned_data["email"])
        except forms.ValidationError as error:
            raise UserError("email_taken", error.messages[0], status=409) from error


class ChangeEmailForm(allauth_forms.AddEmailForm):
    """Asks for a new address. The present one stays, confirmed or not, until the new one is confirmed.

    (allauth would replace an unconfirmed address at once, and leave the person without any.)
    """

    def save(self, request: HttpRequest) -> EmailAddress:
        user, email = self.user, self.cleaned_data["email"]
        address = EmailAddress(user=user, email=email)
        if User.objects.exclude(pk=user.pk).filter(email__iexact=email).exists():
            # Whoever asks cannot tell; who has the address is told.
            get_adapter().send_account_already_exists_mail(email)
            return address
        with transaction.atomic():
            pending = EmailAddress.objects.filter(user=user, verified=False)
            pending.exclude(email__iexact=user.email).delete()
            address.save()
        send_verification_email_to_address(request, address)
        return address


class SetupForm(forms.Form):
    """The owner of an empty site. `code` is asked for unless the page is opened on the machine itself."""

    name = NameField()
    email = forms.EmailField(
        label=gettext_lazy("Email address"),
        max_length=254,
        widget=forms.EmailInput(attrs={"autocomplete": "email"}),
    )
    password = forms.CharField(
        label=gettext_lazy("Password"),
        strip=False,
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}),
        help_text=gettext_lazy("At least 8 characters."),
    )
    workspace = forms.CharField(
        label=gettext_lazy("Name of your workspace"),
        max_length=80,
        help_text=gettext_lazy("Your company or team. You can change it later."),
    )
    code = forms.CharField(
        label=gettext_lazy("Set-up code"),
        max_length=60,
        widget=forms.TextInput(
            attrs={"autocomplete": "off", "spellcheck": "false", "autocapitalize": "none"}
        ),
        help_text=gettext_lazy(
            "`manage.py setupcode` prints it (on a server, `deploy/manage setupcode` or "
            "`docker compose run --rm manage setupcode`), and so does `make run` when it starts."
        ),
    )

    def __init__(self, *args: Any, ask_code: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not ask_code:
            del self.fields["code"]

    def clean_code(self) -> str:
        code: str = self.cleaned_data["code"]
        if not is_setup_code(code):
            raise forms.ValidationError(_("That is not this site's set-up code."))
        return code

    def clean_workspace(self) -> str:
        return clean_named_workspace(self.cleaned_data["workspace"])

    def clean(self) -> dict[str, Any]:
        data: dict[str, Any] = super().clean() or {}
        if "password" in data:
            person = User(email=data.get("email", ""), name=data.get("name", ""))
            try:
                password_validation.validate_password(data["password"], person)
            except forms.ValidationError as error:
                self.add_error("password", error)
        return data


class ProfileForm(forms.Form):
    name = NameField(required=False, help_text=gettext_lazy("What others in your workspace see."))


class WorkspaceForm(forms.Form):
    name = forms.CharField(label=gettext_lazy("Name"), max_length=80)

    def clean_name(self) -> str:
        return clean_named_workspace(self.cleaned_data["name"])


class InvitationForm(forms.Form):
    email = forms.EmailField(
        label=gettext_lazy("Email address"),
        required=False,
        max_length=254,
        help_text=gettext_lazy("If you fill it in, only a person with this address can use the link."),
    )
    role = forms.ChoiceField(label=gettext_lazy("Role"))

    def __init__(self, *args: Any, actor: Membership, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        role = self.fields["role"]
        assert isinstance(role, forms.ChoiceField)
        role.choices = role_choices(actor)
        self.initial.setdefault("role", Role.MEMBER)


def role_choices(actor: Membership) -> list[tuple[str, Any]]:
    """The roles `actor` may grant."""
    return [(role.value, role.label) for role in Role if RANK[role] <= RANK[Role(actor.role)]]


class DeleteAccountForm(forms.Form):
    """Confirms who is asking: the password, or the address for a person who has none (single sign-on)."""

    def __init__(self, *args: Any, user: User, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.user = user
        if user.has_usable_password():
            self.fields["password"] = forms.CharField(
                label=gettext_lazy("Your password"),
                strip=False,
                widget=forms.PasswordInput(attrs={"autocomplete": "current-password"}),
            )
        else:
            self.fields["email"] = forms.EmailField(label=gettext_lazy("Your email address"))

    def clean_password(self) -> str:
        password: str = self.cleaned_data["password"]
        if not self.user.check_password(password):
            raise forms.ValidationError(_("That is not your password."))
        return password

    def clean_email(self) -> str:
        email: str = self.cleaned_data["email"]
        if email.lower() != self.user.email.lower():
            raise forms.ValidationError(_("That is not the address of this account."))
        return email
