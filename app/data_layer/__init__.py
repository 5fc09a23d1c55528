"""Operations for workers. Each belongs to one company and returns a Result."""

from app.data_layer.bookings import BookingOperations
from app.data_layer.clients import ClientOperations
from app.data_layer.companies import CompanyOperations
from app.data_layer.dialogs import DialogOperations
from app.data_layer.result import Result
from app.data_layer.services import ServiceOperations
from app.data_layer.staff import StaffOperations

__all__ = ["DataLayer", "Result"]


class DataLayer(
    DialogOperations,
    ClientOperations,
    StaffOperations,
    ServiceOperations,
    CompanyOperations,
    BookingOperations,
):
    """All operations of one company."""
